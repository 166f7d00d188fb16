//! The canonical encoding: little endian, variable-length integers, lists as count then items.
//!
//! The only file that names `bincode`, and it asks it for one thing: the bytes of a varint. Everything else (raw bytes,
//! lists, options of a type) is composed here, so a bincode-compatible crate can take its place without a byte changing.
//!
//! Guarantees of [`decode`]: every byte is consumed; re-encoding gives the same bytes (over-long varints are refused);
//! no allocation exceeds what the remaining input can justify; sizes are counted in `u64`, so verdicts do not depend
//! on the platform.

use bincode::config::{self, Configuration};

/// Most items reserved before they have been read; a longer list grows as its items arrive.
const RESERVE_ITEMS_MAX: u64 = 1024;

const CONFIG: Configuration = config::standard();

/// Why bytes are not the encoding of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ended inside a value.
    #[error("the bytes end too early")]
    Truncated,
    /// The value is complete but bytes follow it.
    #[error("{0} bytes follow the value")]
    TrailingBytes(u64),
    /// The bytes mean a value whose encoding is different.
    #[error("not in canonical form")]
    NonCanonical,
    /// A list claims more items than are allowed or than the input can hold.
    #[error("a list of {count} {what} is longer than allowed here ({max})")]
    ListTooLong {
        /// What is listed.
        what: &'static str,
        /// The claimed count.
        count: u64,
        /// The most allowed, given the limit and the bytes that remain.
        max: u64,
    },
    /// A kind or tag that this version does not know.
    #[error("unknown {what} {tag}")]
    UnknownTag {
        /// What the tag selects.
        what: &'static str,
        /// The tag.
        tag: u64,
    },
    /// A policy deeper, larger or otherwise shaped than the rules allow.
    #[error("policy: {0}")]
    Policy(&'static str),
}

/// A value with one canonical encoding.
pub trait Codec: Sized {
    /// True minimum of the encoding's length in bytes: what bounds a claimed list length.
    const MIN_SIZE: u64;

    /// Appends the encoding.
    fn write(&self, writer: &mut Writer);

    /// Reads one value, leaving what follows.
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError>;
}

/// The encoding of `value`.
pub fn encode<T: Codec>(value: &T) -> Vec<u8> {
    let mut writer = Writer::default();
    value.write(&mut writer);
    writer.finish()
}

/// The value that `bytes`, all of them, encode.
pub fn decode<T: Codec>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut reader = Reader::new(bytes);
    let value = T::read(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Collects an encoding.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// With room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Goes on behind these bytes: whoever writes many values into one buffer allocates once.
    pub const fn append_to(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// A 32-bit varint.
    pub fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    /// A 64-bit varint.
    pub fn u64(&mut self, value: u64) {
        // bincode: one byte up to 250, else a marker and two, four or eight bytes. The same for u32 and u64.
        let mut buffer = [0; 9];
        let length = bincode::encode_into_slice(value, &mut buffer, CONFIG).unwrap_or(0);
        self.0.extend_from_slice(buffer.get(..length).unwrap_or(&[]));
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A list of bytes: count, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// A list: count, then the items.
    pub fn list<T: Codec>(&mut self, items: &[T]) {
        self.count(items.len());
        for item in items {
            item.write(self);
        }
    }

    /// A list's count.
    pub fn count(&mut self, count: usize) {
        self.u64(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// How many bytes so far.
    pub fn position(&self) -> usize {
        self.0.len()
    }

    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The encoding.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads values off the front of a byte slice.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes have not been read.
    pub fn remaining(&self) -> u64 {
        u64::try_from(self.rest.len()).unwrap_or(u64::MAX)
    }

    /// Confirms that every byte was read.
    pub fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::TrailingBytes(self.remaining())) }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A fixed number of bytes as they are.
    pub fn raw<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        let (head, rest) = self.rest.split_first().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A 32-bit varint in its shortest form.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.u64()?).map_err(|_| CodecError::NonCanonical)
    }

    /// A 64-bit varint in its shortest form.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        // A slice of at most nine bytes: bincode can neither read further nor allocate.
        let window = self.rest.get(..9).unwrap_or(self.rest);
        let (value, length) = bincode::decode_from_slice::<u64, _>(window, CONFIG).map_err(|error| match error {
            bincode::error::DecodeError::UnexpectedEnd { .. } => CodecError::Truncated,
            _ => CodecError::NonCanonical,
        })?;
        if length != varint_length(value) {
            return Err(CodecError::NonCanonical);
        }
        self.take(length)?;
        Ok(value)
    }

    /// The count of a list whose items take at least `item_min` bytes each.
    pub fn count(&mut self, what: &'static str, max: u64, item_min: u64) -> Result<u64, CodecError> {
        let count = self.u64()?;
        let max = max.min(self.remaining().checked_div(item_min).unwrap_or(0));
        if count > max { Err(CodecError::ListTooLong { what, count, max }) } else { Ok(count) }
    }

    /// A list of at most `max` items.
    pub fn list<T: Codec>(&mut self, what: &'static str, max: u64) -> Result<Vec<T>, CodecError> {
        let count = self.count(what, max, T::MIN_SIZE)?;
        let mut items = Vec::with_capacity(usize::try_from(count.min(RESERVE_ITEMS_MAX)).unwrap_or(0));
        for _ in 0..count {
            items.push(T::read(self)?);
        }
        Ok(items)
    }

    /// A list of at most `max` bytes.
    pub fn bytes(&mut self, what: &'static str, max: u64) -> Result<Vec<u8>, CodecError> {
        let count = self.count(what, max, 1)?;
        Ok(self.take(usize::try_from(count).map_err(|_| CodecError::Truncated)?)?.to_vec())
    }
}

/// Length of a varint's shortest form.
const fn varint_length(value: u64) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// Implements [`Codec`] for fixed-size raw bytes.
macro_rules! raw_codec {
    ($type:ty, $length:literal) => {
        impl Codec for $type {
            const MIN_SIZE: u64 = $length;

            fn write(&self, writer: &mut Writer) {
                writer.raw(self.as_bytes());
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
                reader.raw::<$length>().map(Self::from_bytes)
            }
        }
    };
}
pub(crate) use raw_codec;

raw_codec!(crate::hash::Hash256, 32);
raw_codec!(crate::hash::BlockHash, 32);
raw_codec!(crate::hash::TxId, 32);
raw_codec!(crate::hash::WtxId, 32);

impl Codec for [u8; 32] {
    const MIN_SIZE: u64 = 32;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.raw()
    }
}

impl Codec for crate::amount::Amount {
    const MIN_SIZE: u64 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.sen());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u64().map(Self::from_sen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(value: u64) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u64(value);
        writer.finish()
    }

    #[test]
    fn varints_have_golden_bytes() {
        let golden: [(u64, &[u8]); 7] = [
            (0, &[0]),
            (250, &[250]),
            (251, &[251, 251, 0]),
            (0xffff, &[251, 255, 255]),
            (0x1_0000, &[252, 0, 0, 1, 0]),
            (0xffff_ffff, &[252, 255, 255, 255, 255]),
            (0x1_0000_0000, &[253, 0, 0, 0, 0, 1, 0, 0, 0]),
        ];
        for (value, bytes) in golden {
            assert_eq!(varint(value), bytes);
            assert_eq!(Reader::new(bytes).u64(), Ok(value));
            for end in 0..bytes.len() {
                assert_eq!(Reader::new(&bytes[..end]).u64(), Err(CodecError::Truncated));
            }
        }
    }

    #[test]
    fn over_long_varints_are_refused() {
        let over_long: [&[u8]; 6] = [
            &[251, 250, 0],
            &[252, 255, 255, 0, 0],
            &[253, 255, 255, 255, 255, 0, 0, 0, 0],
            &[254, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[255, 0, 0, 0, 0, 0, 0, 0, 0],
            &[253, 1, 0, 0, 0, 0, 0, 0, 0],
        ];
        for bytes in over_long {
            assert_eq!(Reader::new(bytes).u64(), Err(CodecError::NonCanonical), "{bytes:?}");
        }
        assert_eq!(Reader::new(&varint(1 << 32)).u32(), Err(CodecError::NonCanonical));
    }

    #[test]
    fn a_list_is_bounded_by_its_limit_and_by_the_input() {
        let mut writer = Writer::default();
        writer.u64(u64::MAX);
        writer.raw(&[0; 64]);
        let bytes = writer.finish();
        let error = Reader::new(&bytes).list::<[u8; 32]>("hashes", u64::MAX);
        assert_eq!(error, Err(CodecError::ListTooLong { what: "hashes", count: u64::MAX, max: 2 }));
        let error = Reader::new(&[3, 1, 2, 3]).bytes("memo bytes", 2);
        assert_eq!(error, Err(CodecError::ListTooLong { what: "memo bytes", count: 3, max: 2 }));
    }

    #[test]
    fn writers_have_the_room_and_the_bytes_they_were_given() {
        assert!(Writer::with_capacity(1_000).finish().capacity() >= 1_000);
        let mut writer = Writer::append_to(vec![7, 8]);
        writer.u8(9);
        assert_eq!(writer.finish(), [7, 8, 9]);
    }

    proptest! {
        #[test]
        fn varints_round_trip(value in prop_oneof![any::<u64>(), 0..300u64, 0xfff0..0x1_0010u64, 0xffff_fff0..0x1_0000_0010u64]) {
            let bytes = varint(value);
            prop_assert_eq!(bytes.len(), varint_length(value));
            prop_assert_eq!(Reader::new(&bytes).u64(), Ok(value));
        }

        #[test]
        fn what_decodes_reencodes(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.u64() {
                let read = bytes.len() - reader.rest().len();
                prop_assert_eq!(varint(value), &bytes[..read]);
            }
        }
    }
}
