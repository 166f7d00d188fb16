//! One budget for a node's memory (`--max-memory`): who may hold how much of it, and what is held.
//!
//! ```text
//!  budget ── own ── headers ── allocator's slack ── what options fix ── least of each part ── the rest, by weight
//! ```
//!
//! Shares are worst cases, copies that are made on the way included, so that their sum bounds the process. Without a budget
//! each part has the most that it can use. Here is only arithmetic; each part keeps to its share by itself.

use crate::chain::{self, KnownSignatures};
use crate::p2p::brain::history::HISTORY_PART;
use crate::snapshot;
use std::fmt;

/// The program, its threads' stacks, the runtime, the lattice and the log; compactions of the database, which read and write a
/// few megabytes at a time outside of its cache; answers to a few callers. Measured: an idle node has some 30 MB.
const OWN_BYTES: u64 = 64_000_000;
/// Blocks that are about at once beside those that are checked or fetched: being connected, relayed, proposed to miners.
const OWN_BLOCKS: u64 = 8;
/// One part in so many of what is shared out stays free, for what the allocator cannot use.
const SLACK_PARTS: u64 = 8;
/// Bytes that blocks take while they are checked, for each byte of those let in: the encoding and five times that decoded
/// and checked; half as much written ahead, of which three copies are there for a moment.
const CHECKING_RATIO_HALVES: u64 = 15;
/// Bytes that bodies on their way take, for each four that may be asked for or wait for the chain: three more may wait to be
/// looked at.
const DOWNLOAD_RATIO_QUARTERS: u64 = 7;
/// The chain that verifies the history behind a snapshot has, of what the first chain has for blocks and for the database,
/// one part in so many besides.
const SECOND_PART: u64 = HISTORY_PART;
/// What a snapshot takes that is made, loaded or offered, beside the coins that changed meanwhile: a batch of coins for the
/// store, which copies it, files' buffers, some manifests of half a megabyte.
const SNAPSHOT_OWN_BYTES: u64 = 12_000_000;

/// Bytes that both indexes take while they are built, for each byte of a batch: in each, one batch is put together and sorted
/// while another is written, and the store has a copy of its own.
const INDEX_RATIO: u64 = 11;
/// Queues and tables of a connection that is busy. (Hostile ones can make it a few times that.)
const PEER_BYTES: u64 = 512 << 10;
/// Outgoing connections, those of a moment included.
const OUTGOING_PEERS: u64 = 16;

/// The most that some parts can use, and have without a budget: bytes of blocks that are checked, of bodies on their way, of
/// an index's batch.
const CHECKED_BYTES_MAX: u64 = chain::WINDOW_BYTES as u64;
const DOWNLOAD_BYTES_MAX: u64 = crate::p2p::limits::DOWNLOAD_WINDOW_BYTES;
const INDEX_BATCH_BYTES_MAX: u64 = crate::index::BATCH_BYTES_MAX as u64;
/// The least with which they work.
const INDEX_BATCH_BYTES_MIN: u64 = 1 << 20;
const COINS_BYTES_MIN: u64 = 4_000_000;
const DATABASE_BYTES_MIN: u64 = 24_000_000;
const MEMPOOL_BYTES_MIN: u64 = 5_000_000;
const SIGNATURES_BYTES_MIN: u64 = 1_000_000;
const SNAPSHOT_CHANGES_MIN: u64 = 20_000;
/// Its database has no less room than this.
const HISTORY_BYTES_MIN: u64 = COINS_BYTES_MIN + 17_000_000;
/// Past this a mempool is a day of full blocks: what is left is better with the coins.
const MEMPOOL_BYTES_MAX: u64 = 2_000_000_000;

/// Who holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The program itself.
    Own,
    /// The tree of headers: grows with the chain.
    Headers,
    /// What the allocator has and cannot use.
    Slack,
    /// The coins' cache, with what is copied while it is written.
    Coins,
    /// RocksDB's cache of blocks and its memory tables, under one limit.
    Database,
    /// Unconfirmed transactions.
    Mempool,
    /// Ids of transactions whose signatures have been verified.
    Signatures,
    /// Blocks that are checked ahead, and written ahead.
    Checking,
    /// Bodies asked for, held back, and queued before the chain.
    Download,
    /// The indexes' batches.
    Indexes,
    /// Connections of peers.
    Peers,
    /// Blocks whose time has not come.
    Early,
    /// A snapshot of the coins that is made or loaded.
    Snapshot,
    /// Coins and database of the chain that verifies the history behind a snapshot.
    History,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Own,
        Self::Headers,
        Self::Slack,
        Self::Coins,
        Self::Database,
        Self::Mempool,
        Self::Signatures,
        Self::Checking,
        Self::Download,
        Self::Indexes,
        Self::Peers,
        Self::Early,
        Self::Snapshot,
        Self::History,
    ];

    /// As it is called in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Headers => "headers",
            Self::Slack => "slack",
            Self::Coins => "coins",
            Self::Database => "database",
            Self::Mempool => "mempool",
            Self::Signatures => "signatures",
            Self::Checking => "checking",
            Self::Download => "download",
            Self::Indexes => "indexes",
            Self::Peers => "peers",
            Self::Early => "early",
            Self::Snapshot => "snapshot",
            Self::History => "history",
        }
    }
}

/// What the options and the network say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// `--max-memory`.
    pub budget: Option<u64>,
    /// `--db-cache`: coins and database.
    pub database: Option<u64>,
    /// `--max-mempool`.
    pub mempool: Option<u64>,
    /// `--max-inbound`.
    pub inbound: Option<u64>,
    /// Whether there are indexes.
    pub index: bool,
    /// Whether the chain may begin with a snapshot, and then verify the history behind it.
    pub history: bool,
    /// Bytes of a block at most.
    pub block_bytes: u64,
}

/// What parts have whose options are not set, without a budget.
#[derive(Debug, Clone, Copy)]
pub struct Usual {
    /// Of `--db-cache`.
    pub database: u64,
    /// Of `--max-mempool`.
    pub mempool: u64,
    /// Of `--max-inbound`.
    pub inbound: u64,
}

/// Who may hold how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// All together; `None` without a budget.
    pub budget: Option<u64>,
    history: bool,
    bytes: [u64; Part::ALL.len()],
}

/// A budget that is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLittle {
    /// The least that would do.
    pub least: u64,
    fixed: u64,
    block_bytes: u64,
    headers: u64,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let own = OWN_BYTES + OWN_BLOCKS * self.block_bytes;
        write!(
            f,
            "at least {} M: the program and the blocks in its hands take {} M (a block may have {} bytes)",
            mib(self.least),
            mib(own),
            self.block_bytes
        )?;
        if self.headers > 0 {
            write!(f, ", the chain's headers {} M", mib(self.headers))?;
        }
        if self.fixed > 0 {
            write!(f, ", what --db-cache, --max-mempool and --max-inbound ask for {} M", mib(self.fixed))?;
        }
        f.write_str("; the rest is the least with which caches, mempool, downloads, indexes and snapshots work")
    }
}

impl std::error::Error for TooLittle {}

/// A part that takes from what is shared out.
struct Row {
    part: Part,
    /// What an option fixes.
    fixed: Option<u64>,
    least: u64,
    /// Of the rest.
    weight: u64,
    most: u64,
}

impl Wanted {
    /// The shares, of a chain of so many headers.
    pub fn split(&self, headers: u64, usual: &Usual) -> Result<Shares, TooLittle> {
        // The second chain has its own tree of them.
        let headers = headers * chain::HEADER_MEMORY_BYTES * (1 + u64::from(self.history));
        let mut shares = Shares { budget: self.budget, history: self.history, bytes: [0; Part::ALL.len()] };
        shares.set(Part::Own, OWN_BYTES + OWN_BLOCKS * self.block_bytes);
        shares.set(Part::Headers, headers);
        let Some(budget) = self.budget else {
            for row in self.rows(Some(usual)) {
                shares.set(row.part, row.fixed.unwrap_or(row.most));
            }
            return Ok(shares);
        };
        let rows = self.rows(None);
        let taken: u64 = rows.iter().map(|row| row.fixed.unwrap_or(row.least)).sum();
        let outside = shares.total();
        let shared_out = budget.saturating_sub(outside);
        let slack = shared_out / SLACK_PARTS;
        let Some(mut rest) = (shared_out - slack).checked_sub(taken) else {
            let least = outside + (taken * SLACK_PARTS).div_ceil(SLACK_PARTS - 1) + 1;
            let fixed = rows.iter().filter_map(|row| row.fixed).sum();
            return Err(TooLittle { least, fixed, block_bytes: self.block_bytes, headers });
        };
        shares.set(Part::Slack, slack);
        // Those that have a limit first: what they leave goes to the others.
        let (limited, open): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.most < u64::MAX);
        let mut weights: u64 = rows.iter().filter(|row| row.fixed.is_none()).map(|row| row.weight).sum();
        for row in limited.into_iter().chain(open) {
            let bytes = match row.fixed {
                Some(bytes) => bytes,
                None => {
                    let more = rest * row.weight / weights.max(1);
                    let bytes = (row.least + more).min(row.most.max(row.least));
                    rest -= bytes - row.least;
                    weights -= row.weight;
                    bytes
                }
            };
            shares.set(row.part, bytes);
        }
        if self.database.is_none() {
            // A table of coins has one of few sizes; what it cannot use, the database's cache can.
            let used = chain::coin_cache_cost(shares.coin_table());
            let over = shares.of(Part::Coins).saturating_sub(used);
            shares.set(Part::Coins, used);
            shares.set(Part::Database, shares.of(Part::Database) + over);
        }
        Ok(shares)
    }

    /// Bytes for a database and its coins, half and half, where nothing else runs.
    pub fn database_bytes(&self, usual: &Usual, shares: &Shares) -> u64 {
        match (self.database, self.budget) {
            (Some(bytes), _) => bytes,
            (None, Some(_)) => shares.of(Part::Coins) + shares.of(Part::Database),
            (None, None) => usual.database,
        }
    }

    fn rows(&self, usual: Option<&Usual>) -> [Row; 11] {
        let block = self.block_bytes;
        let row = |part, fixed, least: u64, weight, most: u64| Row { part, fixed, least, weight, most };
        let half = self.database.or(usual.map(|usual| usual.database)).map(|bytes| bytes / 2);
        let mempool = self.mempool.or(usual.map(|usual| usual.mempool));
        let inbound = self.inbound.or(usual.map(|usual| usual.inbound));
        let signatures = KnownSignatures::BYTES_MAX;
        let checking = |bytes: u64| with_second(self.history, bytes * CHECKING_RATIO_HALVES / 2);
        let download = |bytes: u64| with_second(self.history, bytes / 4 * DOWNLOAD_RATIO_QUARTERS);
        let snapshot = |changes: u64| SNAPSHOT_OWN_BYTES + changes * snapshot::CHANGE_BYTES;
        let second = u64::from(self.history);
        // As much as it had before there was a budget.
        let history = usual.and(half).map(|half| {
            let bytes = chain::coin_cache_cost(half / SECOND_PART) + half / SECOND_PART;
            second * bytes.max(HISTORY_BYTES_MIN)
        });
        let indexed = u64::from(self.index);
        let index = |bytes: u64| bytes * INDEX_RATIO * indexed;
        let peers = inbound.map(|inbound| (OUTGOING_PEERS + inbound) * PEER_BYTES);
        [
            // What is on the disk is read through both: half and half, as without a budget.
            row(Part::Coins, half.map(chain::coin_cache_cost), COINS_BYTES_MIN, 8, u64::MAX),
            row(Part::Database, half, DATABASE_BYTES_MIN, 8, u64::MAX),
            row(Part::Mempool, mempool, MEMPOOL_BYTES_MIN, 6, MEMPOOL_BYTES_MAX),
            // As many ids as the mempool has transactions, and the newest blocks'.
            row(Part::Signatures, None, SIGNATURES_BYTES_MIN, 1, signatures),
            // A block that does not fit passes alone, so nothing ever waits for more than there is.
            row(Part::Checking, None, checking(block), 2, checking(CHECKED_BYTES_MAX.max(block))),
            row(Part::Download, None, download(4 * block), 2, download(DOWNLOAD_BYTES_MAX.max(4 * block))),
            row(Part::Indexes, None, index(INDEX_BATCH_BYTES_MIN), 3 * indexed, index(INDEX_BATCH_BYTES_MAX)),
            row(Part::Peers, peers, OUTGOING_PEERS * PEER_BYTES, 2, 1_000 * PEER_BYTES),
            row(Part::Early, None, block, 1, chain::EARLY_BYTES_MAX.max(block)),
            row(Part::Snapshot, None, snapshot(SNAPSHOT_CHANGES_MIN), 1, snapshot(snapshot::CHANGES_MAX as u64)),
            row(Part::History, history, second * HISTORY_BYTES_MIN, second * 4, u64::MAX),
        ]
    }
}

impl Shares {
    /// A part's share.
    pub fn of(&self, part: Part) -> u64 {
        self.bytes[part as usize]
    }

    fn set(&mut self, part: Part, bytes: u64) {
        self.bytes[part as usize] = bytes;
    }

    /// All shares together.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// Bytes of the table of cached coins.
    pub fn coin_table(&self) -> u64 {
        chain::coin_table_within(self.of(Part::Coins))
    }

    /// Bytes of blocks that are checked ahead.
    pub fn checked_bytes(&self) -> u64 {
        without_second(self.history, self.of(Part::Checking)) * 2 / CHECKING_RATIO_HALVES
    }

    /// Bytes of bodies asked for or waiting for the chain.
    pub fn download_bytes(&self) -> u64 {
        without_second(self.history, self.of(Part::Download)) / DOWNLOAD_RATIO_QUARTERS * 4
    }

    /// Bytes of an index's batch.
    pub fn index_batch(&self) -> u64 {
        (self.of(Part::Indexes) / INDEX_RATIO).max(INDEX_BATCH_BYTES_MIN)
    }

    /// Coins that may differ between a snapshot and the tip while it is made.
    pub fn dump_changes(&self) -> usize {
        count(self.of(Part::Snapshot).saturating_sub(SNAPSHOT_OWN_BYTES) / snapshot::CHANGE_BYTES)
    }

    /// The second chain's: bytes of its table of coins and of its database, and of blocks that it checks ahead.
    pub fn history(&self) -> SecondShares {
        let all = self.of(Part::History);
        let coins = all.saturating_sub((HISTORY_BYTES_MIN - COINS_BYTES_MIN).max(all / 2));
        let coin_table = chain::coin_table_within(coins);
        SecondShares {
            coin_table,
            // A table has one of few sizes; what it cannot use, the database can.
            database: all.saturating_sub(chain::coin_cache_cost(coin_table)),
            checked: self.checked_bytes() / SECOND_PART,
        }
    }

    /// Incoming connections.
    pub fn inbound(&self) -> u64 {
        (self.of(Part::Peers) / PEER_BYTES).saturating_sub(OUTGOING_PEERS)
    }

    /// The same, as a count.
    pub fn inbound_count(&self) -> usize {
        count(self.inbound())
    }

    /// Ids of transactions whose signatures have been verified.
    pub fn signatures(&self) -> usize {
        count(self.of(Part::Signatures) / KnownSignatures::BYTES_EACH)
    }
}

/// What the chain has that verifies the history behind a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecondShares {
    /// Bytes of the table of cached coins.
    pub coin_table: u64,
    /// Bytes of the database.
    pub database: u64,
    /// Bytes of blocks that are checked ahead.
    pub checked: u64,
}

/// What both chains have, if there is a second one, by what the first has.
const fn with_second(second: bool, first: u64) -> u64 {
    if second { first + first.div_ceil(SECOND_PART) } else { first }
}

/// The reverse.
const fn without_second(second: bool, both: u64) -> u64 {
    if second { both * SECOND_PART / (SECOND_PART + 1) } else { both }
}

/// A number of bytes or things as the machine counts them.
pub fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What is held right now.
#[derive(Debug, Clone)]
pub struct Held {
    /// Bytes of this process that are in memory, if the system tells.
    pub resident: Option<u64>,
    /// Who may hold how much.
    pub shares: Shares,
    /// What some parts hold: those that count it.
    pub used: Vec<(Part, u64)>,
}

/// Bytes of this process that are in memory (`VmRSS` of proc(5)), if the system tells.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Usual = Usual { database: 450 << 20, mempool: 300_000_000, inbound: 114 };

    fn wanted(budget: Option<u64>) -> Wanted {
        Wanted {
            budget,
            database: None,
            mempool: None,
            inbound: None,
            index: true,
            history: false,
            block_bytes: 1_000_000,
        }
    }

    proptest! {
        /// Whatever is asked for: what is handed out is never more than there is, nor is much left over; each part can
        /// work; an option's wish is met; and the least that an error names is enough, a byte less than it is not.
        #[test]
        fn what_is_handed_out_is_there(
            budget in 0u64..20_000_000_000,
            database in prop::option::of(16u64 << 20..4 << 30),
            mempool in prop::option::of(5_000_000u64..2_000_000_000),
            inbound in prop::option::of(0u64..1_000),
            index: bool,
            history: bool,
            block_bytes in prop::sample::select(vec![1_000_000u64, 4_000_000, 32_000_000]),
            headers in 0u64..3_000_000,
        ) {
            let wanted = Wanted { budget: Some(budget), database, mempool, inbound, index, history, block_bytes };
            let shares = match wanted.split(headers, &USUAL) {
                Ok(shares) => shares,
                Err(too_little) => {
                    prop_assert!(too_little.least > budget);
                    let enough = Wanted { budget: Some(too_little.least), ..wanted };
                    prop_assert!(enough.split(headers, &USUAL).is_ok());
                    let short = Wanted { budget: Some(too_little.least - 16), ..wanted };
                    prop_assert!(short.split(headers, &USUAL).is_err());
                    return Ok(());
                }
            };
            prop_assert!(shares.total() <= budget, "{shares:?}");
            prop_assert!(database.is_some() || budget - shares.total() < 100, "{} left of {shares:?}", budget - shares.total());
            prop_assert!(shares.of(Part::Mempool) >= MEMPOOL_BYTES_MIN && shares.signatures() > 10_000);
            prop_assert!(shares.of(Part::Early) >= block_bytes);
            let changes = shares.dump_changes() as u64 * snapshot::CHANGE_BYTES;
            prop_assert!(shares.dump_changes() >= SNAPSHOT_CHANGES_MIN as usize);
            prop_assert!(shares.dump_changes() <= snapshot::CHANGES_MAX);
            prop_assert!(changes + SNAPSHOT_OWN_BYTES <= shares.of(Part::Snapshot));
            if history {
                // Two chains at once stay within what both have.
                let second = shares.history();
                let caches = chain::coin_cache_cost(second.coin_table) + second.database;
                prop_assert!(caches <= shares.of(Part::History), "{second:?} of {shares:?}");
                let checked = (shares.checked_bytes() + second.checked) * CHECKING_RATIO_HALVES / 2;
                prop_assert!(checked <= shares.of(Part::Checking) && 2 * second.checked + 1 >= block_bytes);
                let download = shares.download_bytes();
                let both = (download + download / HISTORY_PART) / 4 * DOWNLOAD_RATIO_QUARTERS;
                prop_assert!(both <= shares.of(Part::Download));
            } else {
                prop_assert_eq!(shares.of(Part::History), 0);
            }
            prop_assert!(shares.checked_bytes() >= block_bytes && shares.download_bytes() + 4 >= 4 * block_bytes);
            prop_assert!(shares.index_batch() >= INDEX_BATCH_BYTES_MIN && shares.coin_table() > 0);
            if let Some(database) = database {
                prop_assert_eq!(shares.of(Part::Database), database / 2);
                prop_assert!(shares.coin_table() <= database / 2);
            }
            prop_assert!(mempool.is_none_or(|mempool| shares.of(Part::Mempool) == mempool));
            prop_assert!(inbound.is_none_or(|inbound| shares.inbound() == inbound));
            prop_assert!(index || shares.of(Part::Indexes) == 0);
        }
    }

    /// Without a budget every part has what it always had.
    #[test]
    fn without_a_budget_each_part_has_its_own_default() {
        let shares = wanted(None).split(100_000, &USUAL).unwrap();
        assert_eq!((shares.of(Part::Database), shares.of(Part::Mempool)), (225 << 20, 300_000_000));
        let table = shares.coin_table();
        assert!(table <= 225 << 20 && table > 112 << 20, "{table}");
        assert_eq!((shares.checked_bytes(), shares.index_batch(), shares.inbound()), (16 << 20, 16 << 20, 114));
        assert_eq!((shares.download_bytes(), shares.signatures()), (64 << 20, 1 << 20));
        assert_eq!((shares.of(Part::Slack), shares.budget), (0, None));
    }

    /// More memory is never less for anyone.
    #[test]
    fn shares_grow_with_the_budget() {
        let at = |budget| wanted(Some(budget)).split(0, &USUAL).unwrap();
        let mut before = at(200_000_000);
        for budget in (210_000_000..8_000_000_000).step_by(50_000_000) {
            let shares = at(budget);
            for part in Part::ALL {
                // Coins and database share: a table that doubles takes from the other.
                let pair = [Part::Coins, Part::Database].contains(&part);
                assert!(pair || shares.of(part) >= before.of(part), "{part:?} at {budget}");
            }
            let both = |shares: &Shares| shares.of(Part::Coins) + shares.of(Part::Database);
            assert!(both(&shares) >= both(&before), "{budget}");
            before = shares;
        }
    }

    #[test]
    fn a_small_budget_is_refused_with_what_takes_how_much() {
        let text = wanted(Some(50_000_000)).split(0, &USUAL).unwrap_err().to_string();
        assert!(text.starts_with("at least ") && text.contains("1000000 bytes"), "{text}");
        assert!(!text.contains("--db-cache") && !text.contains("headers"), "{text}");
        let fixed = Wanted { database: Some(450 << 20), ..wanted(Some(400_000_000)) };
        let text = fixed.split(500_000, &USUAL).unwrap_err().to_string();
        assert!(text.contains("--db-cache") && text.contains("headers"), "{text}");
    }

    /// The floor is what the options' page promises.
    #[test]
    fn a_quarter_of_a_gigabyte_is_enough_for_the_public_network() {
        let shares = wanted(Some(256_000_000)).split(0, &USUAL).unwrap();
        assert!(shares.of(Part::Mempool) > 10_000_000 && shares.inbound() >= 4, "{shares:?}");
    }

    #[test]
    fn the_process_tells_what_it_holds() {
        let resident = resident_bytes().expect("Linux tells");
        assert!(resident > 1 << 20, "{resident}");
    }
}
