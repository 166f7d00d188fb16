//! The wallet file as bytes: a readable header, sealed contents, a checksum.
//!
//! ```text
//! {"format":"setara-wallet","version":1,"network":..,"genesis":..,"kdf":{..},"cipher":..,"nonce":..}\n
//! XChaCha20-Poly1305(key, nonce, contents; associated data = the line above with its line feed)
//! SHA-256 of everything before                                                              (32 bytes)
//! ```
//!
//! The key is Argon2id of the password. The header is authenticated, so nobody can move a wallet to another network
//! or weaken its parameters unnoticed. The checksum guards against accidents only: it lets a damaged file be told
//! from a wrong password without trying one. Whoever steals the file learns the network and nothing else.

use crate::error::WalletError;
use crate::random::Entropy;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use setara_core::hash::{BlockHash, sha256};
use zeroize::Zeroizing;

/// Names the format in the header.
const FORMAT: &str = "setara-wallet";
/// The version written; older ones would be read too.
const VERSION: u64 = 1;
const KDF: &str = "argon2id";
const CIPHER: &str = "xchacha20poly1305";

/// Argon2id of new files: the second recommendation of RFC 9106 (64 MiB, 3 passes), one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;

/// The most that a header may demand before the password is even tried: a hostile file must not eat the machine.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 32;

/// Bytes of the header line: four times what this version writes.
const HEADER_BYTES_MAX: usize = 2_048;

/// What the header says for anyone to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The network's name.
    pub network: String,
    /// Its genesis block: the network's identity.
    pub genesis: BlockHash,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    network: String,
    genesis: BlockHash,
    kdf: Kdf,
    cipher: String,
    nonce: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

/// The key that a password stands for, with the parameters and salt that made it. Wiped when dropped.
pub struct SealKey {
    kdf: Kdf,
    key: Zeroizing<[u8; 32]>,
}

impl SealKey {
    /// For a new file or a new password: today's parameters and a fresh salt.
    pub fn new(password: &[u8], entropy: &mut impl Entropy) -> Result<Self, WalletError> {
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt)?;
        let kdf =
            Kdf { name: KDF.into(), memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: hex::encode(salt) };
        kdf.stretch(password).map_err(|reason| WalletError::Usage(reason.into()))
    }
}

impl Kdf {
    fn stretch(self, password: &[u8]) -> Result<SealKey, &'static str> {
        let salt = hex::decode(&self.salt).map_err(|_| "its salt is not hexadecimal")?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| "its key derivation parameters are impossible")?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &salt, &mut *key)
            .map_err(|_| "its key derivation parameters are impossible")?;
        Ok(SealKey { kdf: self, key })
    }
}

/// The bytes of a file. The nonce is fresh for every call: 192 random bits never repeat.
pub fn seal(label: &Label, key: &SealKey, contents: &[u8], entropy: &mut impl Entropy) -> Result<Vec<u8>, WalletError> {
    let mut nonce = [0; NONCE_BYTES];
    entropy.fill(&mut nonce)?;
    let header = Header {
        format: FORMAT.into(),
        version: VERSION,
        network: label.network.clone(),
        genesis: label.genesis,
        kdf: key.kdf.clone(),
        cipher: CIPHER.into(),
        nonce: hex::encode(nonce),
    };
    let mut bytes = serde_json::to_vec(&header).expect("strings and numbers are always JSON");
    bytes.push(b'\n');
    let sealed = XChaCha20Poly1305::new((&*key.key).into())
        .encrypt(&XNonce::from(nonce), Payload { msg: contents, aad: &bytes })
        .expect("contents are far below the cipher's 256 GiB");
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&sha256(&bytes));
    Ok(bytes)
}

/// Why bytes are not an openable wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// Not a wallet, or not a whole one.
    Damaged(&'static str),
    /// Of a format that this version does not know.
    Newer(u64),
}

/// A file whose header has been read and whose checksum holds.
pub struct Sealed<'a> {
    header: Header,
    associated: &'a [u8],
    ciphertext: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Reads the header of `bytes`, all of a file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Defect> {
        let damaged = Defect::Damaged;
        let end = bytes.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n');
        let end = end.ok_or(damaged("it does not begin as a wallet does"))?.saturating_add(1);
        let (associated, rest) = bytes.split_at_checked(end).ok_or(damaged("its header is cut off"))?;
        // The version first: a later format may have other fields.
        let value: serde_json::Value =
            serde_json::from_slice(associated).map_err(|_| damaged("it does not begin as a wallet does"))?;
        if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
            return Err(damaged("it is not a Setara wallet"));
        }
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(Defect::Newer(version)),
            _ => return Err(damaged("its header names no version")),
        }
        let body = rest.len().checked_sub(CHECKSUM_BYTES).filter(|length| *length >= TAG_BYTES);
        let (ciphertext, checksum) = rest.split_at(body.ok_or(damaged("it is cut off"))?);
        if sha256(&bytes[..bytes.len() - CHECKSUM_BYTES]) != checksum {
            return Err(damaged("its checksum does not match"));
        }
        let header: Header = serde_json::from_value(value).map_err(|_| damaged("its header is malformed"))?;
        let kdf = &header.kdf;
        let bounded = (MEMORY_KIB..=MEMORY_KIB_MAX).contains(&kdf.memory_kib)
            && (PASSES..=PASSES_MAX).contains(&kdf.passes)
            && (LANES..=LANES_MAX).contains(&kdf.lanes);
        if kdf.name != KDF || header.cipher != CIPHER || !bounded || kdf.salt.len() != SALT_BYTES * 2 {
            return Err(damaged("its header asks for unknown or absurd cryptography"));
        }
        Ok(Self { header, associated, ciphertext })
    }

    /// What the header says.
    pub fn label(&self) -> Label {
        Label { network: self.header.network.clone(), genesis: self.header.genesis }
    }

    /// The contents, and the key to seal them again; `None` if the password is wrong or the file was altered.
    pub fn open(self, password: &[u8]) -> Option<(Zeroizing<Vec<u8>>, SealKey)> {
        let mut nonce = [0; NONCE_BYTES];
        hex::decode_to_slice(&self.header.nonce, &mut nonce).ok()?;
        let key = self.header.kdf.stretch(password).ok()?;
        let contents = XChaCha20Poly1305::new((&*key.key).into())
            .decrypt(&XNonce::from(nonce), Payload { msg: self.ciphertext, aad: self.associated })
            .ok()?;
        Some((Zeroizing::new(contents), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsEntropy;
    use crate::random::tests::Broken;
    use proptest::prelude::*;

    fn label() -> Label {
        Label { network: "dev".into(), genesis: BlockHash::from_bytes([7; 32]) }
    }

    fn sample() -> Vec<u8> {
        let key = SealKey::new(b"correct horse", &mut OsEntropy).unwrap();
        seal(&label(), &key, b"the contents", &mut OsEntropy).unwrap()
    }

    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    #[test]
    fn seals_and_opens_with_the_password_only() {
        let bytes = sample();
        let sealed = Sealed::parse(&bytes).unwrap();
        assert_eq!(sealed.label(), label());
        let (contents, key) = sealed.open(b"correct horse").unwrap();
        assert_eq!(&contents[..], b"the contents");
        assert!(Sealed::parse(&bytes).unwrap().open(b"correct horsf").is_none());
        assert!(Sealed::parse(&bytes).unwrap().open(b"").is_none());
        // Sealing again keeps the salt (the password need not be asked for) and never the nonce.
        let again = seal(&label(), &key, b"the contents", &mut OsEntropy).unwrap();
        let (old, new) = (Sealed::parse(&bytes).unwrap().header, Sealed::parse(&again).unwrap().header);
        assert_eq!(old.kdf, new.kdf);
        assert_ne!(old.nonce, new.nonce);
    }

    #[test]
    fn the_header_states_the_promised_cryptography() {
        let bytes = sample();
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
        let header: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(header["version"], 1);
        assert_eq!(header["network"], "dev");
        assert_eq!(header["kdf"]["name"], "argon2id");
        assert_eq!(header["kdf"]["memory_kib"], 65_536);
        assert_eq!(header["kdf"]["passes"], 3);
        assert_eq!(header["kdf"]["lanes"], 1);
        assert_eq!(header["cipher"], "xchacha20poly1305");
    }

    /// WK5. By accident: the checksum tells, and no password is asked for.
    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let bytes = sample();
        for position in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[position] ^= 0x10;
            assert!(Sealed::parse(&altered).is_err(), "byte {position}");
            assert!(Sealed::parse(&bytes[..position]).is_err(), "cut at {position}");
        }
        assert!(Sealed::parse(b"").is_err());
        assert!(Sealed::parse(&[b'{'; 100_000]).is_err());
    }

    /// WK5. On purpose: with a new checksum, the cipher tells. A spread of positions, as each costs an Argon2.
    #[test]
    fn an_altered_file_with_a_new_checksum_does_not_open() {
        let bytes = sample();
        let header_end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let text = String::from_utf8_lossy(&bytes[..header_end]).into_owned();
        let at = |needle: &str| text.find(needle).unwrap() + needle.len() + 1;
        let positions = [
            at("\"network\":\""),
            at("\"genesis\":\""),
            at("\"salt\":\""),
            at("\"nonce\":\""),
            header_end + 1,
            bytes.len() - CHECKSUM_BYTES - 1,
        ];
        for position in positions {
            let mut altered = bytes.clone();
            altered[position] ^= 1;
            let altered = with_checksum(altered);
            if let Ok(sealed) = Sealed::parse(&altered) {
                assert!(sealed.open(b"correct horse").is_none(), "byte {position}");
            }
        }
    }

    #[test]
    fn absurd_headers_are_refused_before_any_work() {
        let bytes = sample();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let with = |from: &str, to: &str| {
            let mut altered = text.replace(from, to).into_bytes();
            altered.extend_from_slice(&bytes[end..]);
            with_checksum(altered)
        };
        for altered in [
            with("65536", "4294967295"),
            with("65536", "8"),
            with("\"passes\":3", "\"passes\":4000000000"),
            with("\"passes\":3", "\"passes\":1"),
            with("argon2id", "plain"),
            with("xchacha20poly1305", "none"),
            with("\"lanes\":1", "\"lanes\":1,\"extra\":1"),
            with("\"version\":1", "\"version\":\"1\""),
        ] {
            assert!(matches!(Sealed::parse(&altered), Err(Defect::Damaged(_))));
        }
        assert_eq!(Sealed::parse(&with("\"version\":1", "\"version\":2")).err(), Some(Defect::Newer(2)));
    }

    proptest! {
        /// A header of any JSON before any bytes: never a panic, never work before it is known to be sound.
        #[test]
        fn noise_is_no_wallet(
            field in "(version|network|genesis|kdf|cipher|nonce)",
            value in "(null|0|-1|1e99|\"\"|\"00\"|\\[\\]|\\{\\}|true)",
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = format!("{{\"format\":\"setara-wallet\",\"version\":1,\"{field}\":{value}}}\n").into_bytes();
            bytes.extend_from_slice(&noise);
            bytes.extend_from_slice(&sha256(&bytes));
            prop_assert!(Sealed::parse(&bytes).is_err());
            prop_assert!(Sealed::parse(&noise).is_err());
        }
    }

    /// WK1.
    #[test]
    fn without_randomness_nothing_is_sealed() {
        assert!(SealKey::new(b"password", &mut Broken).is_err());
        let key = SealKey::new(b"password", &mut OsEntropy).unwrap();
        assert!(seal(&label(), &key, b"", &mut Broken).is_err());
    }
}
