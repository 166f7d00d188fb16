//! Files of the brain, as bytes: a tag, a body, and its CRC-32. Whatever does not read back exactly is an error, and the
//! caller starts anew. No file is opened here.
//!
//! ```text
//! tag [u8; 8] || body || CRC-32 of tag and body, u32 LE
//! body of addresses: key [u64; 2] || count u32 || entries
//! body of anchors:   count u8 || addresses
//! ```

use super::group::Group;
use super::table::{Entry, Key, NEW_BUCKETS, NEW_REFERENCES_MAX, Table};
use crate::p2p::message::{NetAddress, PeerAddress};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A file that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Too short, or of another kind or version.
    #[error("not a file of this kind and version")]
    Tag,
    /// Changed since it was written.
    #[error("the checksum does not match")]
    Checksum,
    /// The checksum matches, and yet the contents cannot be.
    #[error("bad contents: {0}")]
    Contents(&'static str),
}

/// Names kind and version of the file of addresses.
const ADDRESSES_TAG: [u8; 8] = *b"SETAADR\x01";
/// Names kind and version of the file of anchors.
const ANCHORS_TAG: [u8; 8] = *b"SETAANC\x01";
/// Anchors kept (Bitcoin Core's number): as many as there are block-only connections.
pub const ANCHORS_MAX: usize = 2;

/// Writes a file.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Of this kind.
    pub fn new(tag: [u8; 8]) -> Self {
        Self(tag.to_vec())
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends a host.
    pub fn host(&mut self, host: &NetAddress) {
        match host {
            NetAddress::V4(address) => {
                self.put(&[4]);
                self.put(&address.octets());
            }
            NetAddress::V6(address) => {
                self.put(&[6]);
                self.put(&address.octets());
            }
            NetAddress::Onion(key) => {
                self.put(&[3]);
                self.put(key);
            }
        }
    }

    /// Appends host and port.
    pub fn address(&mut self, address: &PeerAddress) {
        self.host(&address.host);
        self.put(&address.port.to_le_bytes());
    }

    /// The file.
    pub fn finish(mut self) -> Vec<u8> {
        let sum = crc32fast::hash(&self.0);
        self.put(&sum.to_le_bytes());
        self.0
    }
}

/// Reads a file.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of this kind; the checksum is looked at first.
    pub fn new(tag: [u8; 8], bytes: &'a [u8]) -> Result<Self, SavedError> {
        let (rest, sum) = bytes.split_last_chunk::<4>().ok_or(SavedError::Tag)?;
        let body = rest.strip_prefix(&tag).ok_or(SavedError::Tag)?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return Err(SavedError::Checksum);
        }
        Ok(Self(body))
    }

    /// The next bytes.
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], SavedError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SavedError::Contents("truncated"))?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next integer of a byte.
    pub fn u8(&mut self) -> Result<u8, SavedError> {
        Ok(self.take::<1>()?[0])
    }

    /// The next integer of two bytes.
    pub fn u16(&mut self) -> Result<u16, SavedError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    /// The next integer of four bytes.
    pub fn u32(&mut self) -> Result<u32, SavedError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// The next integer of eight bytes.
    pub fn u64(&mut self) -> Result<u64, SavedError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// The next host.
    pub fn host(&mut self) -> Result<NetAddress, SavedError> {
        match self.u8()? {
            4 => Ok(NetAddress::V4(Ipv4Addr::from(self.take::<4>()?))),
            6 => {
                let address = Ipv6Addr::from(self.take::<16>()?);
                // Mapped IPv4 is never written, see `NetAddress`.
                if address.to_ipv4_mapped().is_some() {
                    return Err(SavedError::Contents("mapped address"));
                }
                Ok(NetAddress::V6(address))
            }
            3 => Ok(NetAddress::Onion(self.take()?)),
            _ => Err(SavedError::Contents("kind of address")),
        }
    }

    /// The next host and port.
    pub fn address(&mut self) -> Result<PeerAddress, SavedError> {
        Ok(PeerAddress { host: self.host()?, port: self.u16()? })
    }

    /// Nothing may follow.
    pub fn finish(self) -> Result<(), SavedError> {
        if self.0.is_empty() { Ok(()) } else { Err(SavedError::Contents("trailing bytes")) }
    }
}

/// The file of addresses.
pub(super) fn table_to_bytes(table: &Table) -> Vec<u8> {
    let mut file = Writer::new(ADDRESSES_TAG);
    file.put(&table.key().0.to_le_bytes());
    file.put(&table.key().1.to_le_bytes());
    // Less than 2^17 slots in all.
    file.put(&(table.len() as u32).to_le_bytes());
    for (id, entry) in table.entries() {
        file.address(&entry.address);
        file.put(&entry.services.to_le_bytes());
        file.put(&entry.serves.0.to_le_bytes());
        file.put(&entry.serves.1.to_le_bytes());
        file.put(&entry.time.to_le_bytes());
        file.put(&entry.source.0.to_le_bytes());
        file.put(&entry.last_success.to_le_bytes());
        file.put(&entry.attempts.to_le_bytes());
        let buckets = table.new_buckets_of(id, entry);
        file.put(&[u8::from(entry.tried), buckets.len() as u8]);
        for bucket in buckets {
            file.put(&(bucket as u16).to_le_bytes());
        }
    }
    file.finish()
}

/// Reads the file of addresses.
pub(super) fn table_from_bytes(bytes: &[u8]) -> Result<Table, SavedError> {
    let mut file = Reader::new(ADDRESSES_TAG, bytes)?;
    let mut table = Table::new(Key(file.u64()?, file.u64()?));
    for _ in 0..file.u32()? {
        let address = file.address()?;
        let mut entry = Entry::new(address, Group(0));
        entry.services = file.u64()?;
        entry.serves = (file.u32()?, file.u32()?);
        entry.time = file.u64()?;
        entry.source = Group(file.u64()?);
        entry.last_success = file.u64()?;
        entry.attempts = file.u32()?;
        entry.tried = match file.u8()? {
            0 => false,
            1 => true,
            _ => return Err(SavedError::Contents("tried")),
        };
        let count = file.u8()?;
        if (count == 0) != entry.tried || count > NEW_REFERENCES_MAX {
            return Err(SavedError::Contents("references"));
        }
        let mut buckets = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let bucket = usize::from(file.u16()?);
            if bucket >= NEW_BUCKETS {
                return Err(SavedError::Contents("bucket"));
            }
            buckets.push(bucket);
        }
        table.restore(entry, &buckets).map_err(SavedError::Contents)?;
    }
    file.finish()?;
    Ok(table)
}

/// The file of anchors: peers to dial first after a restart. At most [`ANCHORS_MAX`] are written.
pub fn anchors_to_bytes(anchors: &[PeerAddress]) -> Vec<u8> {
    let anchors = &anchors[..anchors.len().min(ANCHORS_MAX)];
    let mut file = Writer::new(ANCHORS_TAG);
    file.put(&[anchors.len() as u8]);
    for anchor in anchors {
        file.address(anchor);
    }
    file.finish()
}

/// Reads the file of anchors. The caller deletes it first: a crash that an anchor causes must not repeat for ever.
pub fn anchors_from_bytes(bytes: &[u8]) -> Result<Vec<PeerAddress>, SavedError> {
    let mut file = Reader::new(ANCHORS_TAG, bytes)?;
    let count = usize::from(file.u8()?);
    if count > ANCHORS_MAX {
        return Err(SavedError::Contents("too many anchors"));
    }
    let anchors = (0..count).map(|_| file.address()).collect::<Result<Vec<_>, _>>()?;
    file.finish()?;
    Ok(anchors)
}
