//! Ed25519 edge cases from outside: every published vector, alone and in batches, must get ZIP 215's verdict.

use super::*;
use chacha20::ChaCha20Rng;
use core::convert::Infallible;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use rand_core::{Rng, SeedableRng, TryCryptoRng, TryRng};
use sha2::{Digest, Sha512};

/// The 8 torsion points as they encode canonically, then the 6 other encodings that decode to one of them.
const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

/// Flags of the CCTV set, as its file here numbers them.
const LOW_ORDER_A: u8 = 1 << 1;
const REENCODED_K: u8 = 1 << 7;

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).unwrap();
    bytes
}

fn signature(r: [u8; 32], s: [u8; 32]) -> Signature {
    Signature::from_bytes([r, s].concat().try_into().unwrap())
}

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// The verdict alone, beside itself in a batch, and beside a valid signature in a batch: all three the same.
fn verdict(key: &PublicKey, message: &[u8], signature: &Signature, rng: &mut ChaCha20Rng) -> bool {
    let single = holds(key, message, signature);
    let friend = SecretKey::from_seed([1; 32]);
    let friend =
        SignatureCheck { key: friend.public_key(), message: [2; 32], signature: friend.sign(&[2; 32]).unwrap() };
    let mut alone = batch::Verifier::new();
    alone.queue(item(key, message, signature));
    assert_eq!(alone.verify(&mut *rng).is_ok(), single, "alone in a batch");
    let mut together = batch::Verifier::new();
    together.queue(item(key, message, signature));
    together.queue(item(&friend.key, &friend.message, &friend.signature));
    together.queue(item(key, message, signature));
    assert_eq!(together.verify(rng).is_ok(), single, "in a batch of three");
    single
}

/// CS12: ZIP 215's 196 cases: every small-order encoding as key and as R, with S = 0, over "Zcash". All are valid.
#[test]
fn zip215_small_order_vectors_verify() {
    let mut rng = rng(1);
    let mut checks = Vec::new();
    for a in SMALL_ORDER {
        let key = PublicKey::from_bytes(bytes(a));
        assert!(key.is_small_order());
        for r in SMALL_ORDER {
            let signature = signature(bytes(r), [0; 32]);
            assert!(verdict(&key, b"Zcash", &signature, &mut rng), "A {a} R {r}");
            checks.push(SignatureCheck { key, message: [0x5a; 32], signature });
        }
    }
    // With S = 0 the message does not matter, so our own 32-byte messages are as good, all in one batch.
    assert_eq!(checks.len(), 196);
    assert!(checks.iter().all(SignatureCheck::verify));
    assert_eq!(SignatureBatch::from(checks).verify(&mut rng), Ok(()));
}

/// The list above is what the curve says: all 8 torsion points, and nothing else that decodes to one.
#[test]
fn the_small_order_encodings_are_complete() {
    let decoded: Vec<EdwardsPoint> =
        SMALL_ORDER.iter().map(|text| CompressedEdwardsY(bytes(text)).decompress().unwrap()).collect();
    for (index, point) in decoded.iter().enumerate() {
        assert!(point.is_small_order());
        let canonical = hex::encode(point.compress().as_bytes());
        assert_eq!(canonical == SMALL_ORDER[index], index < 8, "{canonical}");
        assert!(index >= 8 || decoded[..index].iter().all(|earlier| earlier != point));
    }
    // Encodings of y = 0, 1, -1 and the same plus p, either sign: whatever else decodes is listed.
    let mut p_minus = bytes::<32>("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    for low in 0xe0..=0xff_u8 {
        p_minus[0] = low;
        for sign in [0x7f, 0xff] {
            p_minus[31] = sign;
            let small = CompressedEdwardsY(p_minus).decompress().is_some_and(|point| point.is_small_order());
            assert_eq!(small, SMALL_ORDER.contains(&hex::encode(p_minus).as_str()), "{low:x} {sign:x}");
        }
    }
    assert!(!SecretKey::from_seed([7; 32]).public_key().is_small_order());
    assert!(!PublicKey::from_bytes([2; 32]).is_small_order());
}

/// CS12: all 914 vectors of C2SP's CCTV set. ZIP 215 accepts every one, but those whose k was made from a re-encoded
/// point, unless the key has low order and k does not matter.
#[test]
fn cctv_vectors_get_zip215_verdicts() {
    let mut rng = rng(2);
    let (mut count, mut refused) = (0, 0);
    for line in include_str!("../../tests/vectors/ed25519-cctv.txt").lines() {
        let [key, sig, number, flags] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let message = if number == "0" { "ed25519vectors".into() } else { format!("ed25519vectors {number}") };
        let flags = u8::from_str_radix(flags, 16).unwrap();
        let expected = flags & REENCODED_K == 0 || flags & LOW_ORDER_A != 0;
        let (key, signature) = (PublicKey::from_bytes(bytes(key)), Signature::from_bytes(bytes(sig)));
        assert_eq!(verdict(&key, message.as_bytes(), &signature, &mut rng), expected, "{line}");
        assert_eq!(key.is_small_order(), flags & LOW_ORDER_A != 0, "{line}");
        count += 1;
        refused += usize::from(!expected);
    }
    assert_eq!((count, refused), (914, 88));
}

/// CS12: the 12 cases of ed25519-speccheck ("Taming the many EdDSAs", 2020), whose messages are 32 bytes as ours are.
#[test]
fn speccheck_vectors_get_zip215_verdicts() {
    let mut checks = Vec::new();
    let mut rng = rng(3);
    for line in include_str!("../../tests/vectors/ed25519-speccheck.txt").lines() {
        let [key, sig, message, expected] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let check = SignatureCheck {
            key: PublicKey::from_bytes(bytes(key)),
            message: bytes(message),
            signature: Signature::from_bytes(bytes(sig)),
        };
        assert_eq!(check.verify(), expected == "valid", "{line}");
        assert_eq!(verify_all(&[check, check], &mut rng).is_ok(), expected == "valid", "{line}");
        checks.push(check);
    }
    assert_eq!(checks.len(), 12);
    assert_eq!(verify_all(&checks, &mut rng), Err(6));
}

/// `scalar` plus the group order, as bytes: the same scalar in a form that is not canonical.
fn plus_order(scalar: Scalar) -> [u8; 32] {
    let order = bytes::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0;
    let mut sum = [0; 32];
    for ((to, a), b) in sum.iter_mut().zip(scalar.as_bytes()).zip(order) {
        carry += u16::from(*a) + u16::from(b);
        *to = carry as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0);
    sum
}

/// A signature made with torsion added to key and R: valid under ZIP 215, whatever the torsion.
fn mixed(rng: &mut ChaCha20Rng) -> (SignatureCheck, Scalar) {
    let torsion = curve25519_dalek::constants::EIGHT_TORSION;
    let mut wide = || {
        let mut bytes = [0; 64];
        rng.fill_bytes(&mut bytes);
        Scalar::from_bytes_mod_order_wide(&bytes)
    };
    let (secret, nonce, message) = (wide(), wide(), wide().to_bytes());
    let point =
        |scalar: Scalar, low: u32| (ED25519_BASEPOINT_POINT * scalar + torsion[low as usize % 8]).compress().to_bytes();
    let (key, r) = (point(secret, rng.next_u32()), point(nonce, rng.next_u32()));
    let mut hash = Sha512::new();
    hash.update(r);
    hash.update(key);
    hash.update(message);
    let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let s = nonce + k * secret;
    (SignatureCheck { key: PublicKey::from_bytes(key), message, signature: signature(r, s.to_bytes()) }, s)
}

/// CS12: singles, batches and bisection agree on mixes of torsion, honest and broken signatures; S + L is refused.
#[test]
fn torsion_mixes_get_one_verdict_everywhere() {
    let mut rng = rng(4);
    for round in 0..60 {
        let count = 2 + rng.next_u32() as usize % 40;
        let mut checks = Vec::new();
        for _ in 0..count {
            let (mut check, s) = mixed(&mut rng);
            assert!(check.verify());
            match rng.next_u32() % (4 * count as u32) {
                0 => check.signature = signature(*check.signature.0.first_chunk().unwrap(), plus_order(s)),
                1 => check.message[0] ^= 1,
                2 => check.key = PublicKey::from_bytes([2; 32]), // no curve point
                3 => check.signature.0[..32].fill(2),
                _ => {}
            }
            checks.push(check);
        }
        let expected = checks.iter().position(|check| !check.verify()).map_or(Ok(()), Err);
        assert_eq!(verify_all(&checks, &mut rng), expected, "round {round}");
    }
    let (check, s) = mixed(&mut rng);
    let other = signature(*check.signature.0.first_chunk().unwrap(), plus_order(s));
    assert!(!SignatureCheck { signature: other, ..check }.verify());
}

/// A generator that gives different numbers so many times, then always the same: what weights must never come from.
struct Constant {
    unlike: u8,
}

impl TryRng for Constant {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        to.fill(1 + self.unlike);
        self.unlike = self.unlike.saturating_sub(1);
        Ok(())
    }
}

impl TryCryptoRng for Constant {}

/// Two false signatures whose errors cancel under equal weights.
fn cancelling(rng: &mut ChaCha20Rng) -> [SignatureCheck; 2] {
    let ((mut first, s_first), (mut second, s_second)) = (mixed(rng), mixed(rng));
    first.signature.0[32..].copy_from_slice((s_first + Scalar::ONE).as_bytes());
    second.signature.0[32..].copy_from_slice((s_second - Scalar::ONE).as_bytes());
    assert!(!first.verify() && !second.verify());
    [first, second]
}

/// CS13: with weights that nobody can foretell they fail, every time of 100,000; with constant ones they would pass,
/// which shows that the forgery is a real one.
#[test]
fn forgeries_that_cancel_need_predictable_weights() {
    let mut rng = rng(5);
    let pair = cancelling(&mut rng);
    assert!(batch_holds(&pair, &mut Constant { unlike: 0 }));
    assert_eq!(verify_all(&pair, &mut rng), Err(0));
    // Four threads, a stream of weights each.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut rng = self::rng(100 + thread);
                assert!((0..25_000).all(|_| !batch_holds(&pair, &mut rng)));
            });
        }
    });
}

/// CS13: a batch that has failed once is not let off because its halves pass by bad luck: single verdicts decide.
#[test]
fn a_failed_batch_ends_in_single_verdicts() {
    let mut rng = rng(6);
    let mut checks = cancelling(&mut rng).to_vec();
    checks.extend((0..6).map(|_| mixed(&mut rng).0));
    // Eight different weights betray the batch; then constant ones hide the pair in the left half.
    assert!(batch_holds(&checks[..4], &mut Constant { unlike: 0 }));
    assert_eq!(verify_all(&checks, &mut Constant { unlike: 8 }), Err(0));
}

/// WK2: a signer takes the secret and the message, nothing else; there is no way to hand it a public key.
#[test]
fn signing_takes_the_secret_only() {
    let from_seed: fn([u8; 32]) -> SecretKey = SecretKey::from_seed;
    let sign: fn(&SecretKey, &[u8; 32]) -> Result<Signature, SigningFault> = SecretKey::sign;
    let secret = from_seed([9; 32]);
    let signature = sign(&secret, &[8; 32]).unwrap();
    assert!(SignatureCheck { key: secret.public_key(), message: [8; 32], signature }.verify());
    // RFC 8032: deterministic. Two signatures of one message cannot reveal anything by differing.
    assert_eq!(sign(&secret, &[8; 32]), Ok(signature));
}
