//! SLIP-0010 key derivation for Ed25519: hardened children only, as the curve allows no others.
//!
//! A wallet's keys are `m / 44' / 1397052481' / 0' / chain' / index'`, chain 0 for receiving, 1 for change.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

/// Set in every index: the derivation is hardened.
const HARDENED: u32 = 1 << 31;

/// The purpose level of BIP 44.
const PURPOSE: u32 = 44;

/// The coin type: "SETA" in ASCII, 0x53455441. SLIP-0044 does not list it (checked in 2026), and nothing is claimed
/// there: a registered number would tie every network made from a genesis file to one coin.
pub const COIN_TYPE: u32 = 1_397_052_481;

/// The only account of a wallet.
const ACCOUNT: u32 = 0;

/// The key of the master node's HMAC for this curve.
const MASTER_KEY: &[u8] = b"ed25519 seed";

/// Private key and chain code of one node of the tree. Wiped when dropped; never printed.
pub struct Node {
    key: Zeroizing<[u8; 32]>,
    chain_code: Zeroizing<[u8; 32]>,
}

impl Node {
    /// The root of the tree that grows from a BIP 39 seed.
    pub fn master(seed: &[u8]) -> Self {
        Self::split(MASTER_KEY, &[seed])
    }

    /// The account's node, `m / 44' / coin' / 0'`.
    pub fn account(seed: &[u8]) -> Self {
        Self::master(seed).child(PURPOSE).child(COIN_TYPE).child(ACCOUNT)
    }

    /// The hardened child `index'`; the top bit of `index` is ignored, as it is always set.
    pub fn child(&self, index: u32) -> Self {
        Self::split(&*self.chain_code, &[&[0], &*self.key, &(index | HARDENED).to_be_bytes()])
    }

    /// The private key: an Ed25519 seed in the sense of RFC 8032.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    fn split(key: &[u8], parts: &[&[u8]]) -> Self {
        let mut hmac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
        for part in parts {
            hmac.update(part);
        }
        let digest = Zeroizing::new(<[u8; 64]>::from(hmac.finalize().into_bytes()));
        let mut node = Self { key: Zeroizing::new([0; 32]), chain_code: Zeroizing::new([0; 32]) };
        node.key.copy_from_slice(&digest[..32]);
        node.chain_code.copy_from_slice(&digest[32..]);
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Vector {
        seed: &'static str,
        /// Index from the parent (none for the master), chain code, private key.
        nodes: [(Option<u32>, &'static str, &'static str); 6],
    }

    /// The two Ed25519 test vectors of SLIP-0010.
    const VECTORS: [Vector; 2] = [
        Vector {
            seed: "000102030405060708090a0b0c0d0e0f",
            nodes: [
                (
                    None,
                    "90046a93de5380a72b5e45010748567d5ea02bbf6522f979e05c0d8d8ca9fffb",
                    "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
                ),
                (
                    Some(0),
                    "8b59aa11380b624e81507a27fedda59fea6d0b779a778918a2fd3590e16e9c69",
                    "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
                ),
                (
                    Some(1),
                    "a320425f77d1b5c2505a6b1b27382b37368ee640e3557c315416801243552f14",
                    "b1d0bad404bf35da785a64ca1ac54b2617211d2777696fbffaf208f746ae84f2",
                ),
                (
                    Some(2),
                    "2e69929e00b5ab250f49c3fb1c12f252de4fed2c1db88387094a0f8c4c9ccd6c",
                    "92a5b23c0b8a99e37d07df3fb9966917f5d06e02ddbd909c7e184371463e9fc9",
                ),
                (
                    Some(2),
                    "8f6d87f93d750e0efccda017d662a1b31a266e4a6f5993b15f5c1f07f74dd5cc",
                    "30d1dc7e5fc04c31219ab25a27ae00b50f6fd66622f6e9c913253d6511d1e662",
                ),
                (
                    Some(1_000_000_000),
                    "68789923a0cac2cd5a29172a475fe9e0fb14cd6adb5ad98a3fa70333e7afa230",
                    "8f94d394a8e8fd6b1bc2f3f49f5c47e385281d5c17e65324b0f62483e37e8793",
                ),
            ],
        },
        Vector {
            seed: "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a2\
                   9f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542",
            nodes: [
                (
                    None,
                    "ef70a74db9c3a5af931b5fe73ed8e1a53464133654fd55e7a66f8570b8e33c3b",
                    "171cb88b1b3c1db25add599712e36245d75bc65a1a5c9e18d76f9f2b1eab4012",
                ),
                (
                    Some(0),
                    "0b78a3226f915c082bf118f83618a618ab6dec793752624cbeb622acb562862d",
                    "1559eb2bbec5790b0c65d8693e4d0875b1747f4970ae8b650486ed7470845635",
                ),
                (
                    Some(2_147_483_647),
                    "138f0b2551bcafeca6ff2aa88ba8ed0ed8de070841f0c4ef0165df8181eaad7f",
                    "ea4f5bfe8694d8bb74b7b59404632fd5968b774ed545e810de9c32a4fb4192f4",
                ),
                (
                    Some(1),
                    "73bd9fff1cfbde33a1b846c27085f711c0fe2d66fd32e139d3ebc28e5a4a6b90",
                    "3757c7577170179c7868353ada796c839135b3d30554bbb74a4b1e4a5a58505c",
                ),
                (
                    Some(2_147_483_646),
                    "0902fe8a29f9140480a00ef244bd183e8a13288e4412d8389d140aac1794825a",
                    "5837736c89570de861ebc173b1086da4f505d4adb387c6a1b1342d5e4ac9ec72",
                ),
                (
                    Some(2),
                    "5d70af781f3a37b829f0d060924d5e960bdc02e85423494afc0b1a41bbe196d4",
                    "551d333177df541ad876a60ea71f00447931c0a9da16f227c11ea080d7391b8d",
                ),
            ],
        },
    ];

    /// WK3.
    #[test]
    fn derivation_matches_the_official_vectors() {
        for vector in &VECTORS {
            let mut node = Node::master(&hex::decode(vector.seed).unwrap());
            for (index, chain_code, key) in &vector.nodes {
                if let Some(index) = index {
                    node = node.child(*index);
                }
                assert_eq!(hex::encode(*node.chain_code), *chain_code);
                assert_eq!(hex::encode(node.key()), *key);
            }
        }
    }

    /// WK3. The path of a wallet's account, spelled out once more.
    #[test]
    fn the_account_path_is_44_seta_0() {
        let seed = [7; 64];
        let by_hand = Node::master(&seed).child(44).child(u32::from_be_bytes(*b"SETA")).child(0);
        assert_eq!(Node::account(&seed).key(), by_hand.key());
    }
}
