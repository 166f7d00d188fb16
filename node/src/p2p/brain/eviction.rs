//! Which incoming connection gives way when places are short.
//!
//! Bitcoin Core's scheme: an attacker would have to be better than honest peers in many ways at once (distance, useful
//! transactions, useful blocks, age, kind of network) to have them all evicted; what is left over is thinned where it is
//! most crowded.

use super::addresses::Group;
use super::interface::PeerId;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Protected by the keyed hash of their group: an attacker cannot know which groups are safe.
const PROTECTED_GROUPS: usize = 4;
/// Protected by their lowest ping: an attacker cannot be near everybody.
const PROTECTED_PINGS: usize = 8;
/// Protected for having brought a transaction that was new.
const PROTECTED_TRANSACTIONS: usize = 4;
/// Protected for blocks, of those that exchange blocks only.
const PROTECTED_BLOCK_ONLY: usize = 8;
/// Protected for having brought a block that was new.
const PROTECTED_BLOCKS: usize = 4;

/// An incoming connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub peer: PeerId,
    /// Since when, monotonic.
    pub connected_at: Duration,
    /// The lowest round trip seen.
    pub min_ping: Option<Duration>,
    /// When it last brought a block that was new.
    pub last_block: Option<Duration>,
    /// When it last brought a transaction that was new.
    pub last_transaction: Option<Duration>,
    /// Whether it exchanges transactions.
    pub relays_transactions: bool,
    /// Whether it has said `Hello` and serves blocks.
    pub serves_blocks: bool,
    /// Its group.
    pub group: Group,
    /// See [`super::addresses::Addresses::keyed_group`].
    pub keyed_group: u64,
    /// Whether it comes from this host.
    pub local: bool,
    /// Whether it comes through Tor.
    pub onion: bool,
    /// Whether it is discouraged: goes first.
    pub discouraged: bool,
    /// Whether the operator wants it kept.
    pub kept: bool,
}

/// Who gives way; nobody when all are protected, and the newcomer is then refused.
pub fn choose(candidates: &[Candidate]) -> Option<PeerId> {
    let mut left: Vec<&Candidate> = candidates.iter().filter(|candidate| !candidate.kept).collect();
    protect(&mut left, PROTECTED_GROUPS, |_| true, |c| c.keyed_group);
    protect(&mut left, PROTECTED_PINGS, |_| true, |c| Reverse(c.min_ping.unwrap_or(Duration::MAX)));
    protect(
        &mut left,
        PROTECTED_TRANSACTIONS,
        |_| true,
        |c| (c.last_transaction, c.relays_transactions, Reverse(c.connected_at)),
    );
    let block_only = |c: &Candidate| !c.relays_transactions && c.serves_blocks;
    protect(&mut left, PROTECTED_BLOCK_ONLY, block_only, by_block);
    protect(&mut left, PROTECTED_BLOCKS, |_| true, by_block);
    protect_half(&mut left);
    if left.iter().any(|candidate| candidate.discouraged) {
        left.retain(|candidate| candidate.discouraged);
    }
    let mut groups: BTreeMap<Group, (usize, Duration)> = BTreeMap::new();
    for candidate in &left {
        let (count, youngest) = groups.entry(candidate.group).or_default();
        *count += 1;
        *youngest = candidate.connected_at.max(*youngest);
    }
    let (crowded, _) = groups.into_iter().max_by_key(|(_, crowd)| *crowd)?;
    let crowd = left.into_iter().filter(|candidate| candidate.group == crowded);
    crowd.max_by_key(|candidate| (candidate.connected_at, candidate.peer)).map(|candidate| candidate.peer)
}

fn by_block(candidate: &Candidate) -> (Option<Duration>, bool, Reverse<Duration>) {
    (candidate.last_block, candidate.serves_blocks, Reverse(candidate.connected_at))
}

/// Takes the `count` best out, by what `rank` says of them.
fn protect<R: Ord>(
    left: &mut Vec<&Candidate>,
    count: usize,
    eligible: impl Fn(&Candidate) -> bool,
    rank: impl Fn(&Candidate) -> R,
) {
    left.sort_by_cached_key(|candidate| Reverse((eligible(candidate), rank(candidate), Reverse(candidate.peer))));
    let protected = left.iter().take(count).take_while(|candidate| eligible(candidate)).count();
    left.drain(..protected);
}

/// Protects half of the rest: a quarter (half of that half) is for peers from this host and from Tor, whose pings and
/// groups cannot compete; the others by age.
fn protect_half(left: &mut Vec<&Candidate>) {
    let half = left.len() / 2;
    let before = left.len();
    let local = |candidate: &Candidate| candidate.local;
    let onion = |candidate: &Candidate| candidate.onion && !candidate.local;
    let count = |left: &[&Candidate], of: &dyn Fn(&Candidate) -> bool| left.iter().filter(|c| of(c)).count();
    let (locals, onions) = (count(left, &local), count(left, &onion));
    let reserved = half / 2;
    // The rarer kind first, and what it leaves over is the other's.
    type Kind<'a> = (usize, &'a dyn Fn(&Candidate) -> bool);
    let kinds: [Kind<'_>; 2] =
        if locals <= onions { [(locals, &local), (onions, &onion)] } else { [(onions, &onion), (locals, &local)] };
    let mut rest = reserved;
    for (index, (_, of)) in kinds.iter().enumerate() {
        let others = if index == 0 && kinds[1].0 > 0 { 2 } else { 1 };
        let length = left.len();
        protect(left, rest / others, of, |c| Reverse(c.connected_at));
        rest -= length - left.len();
    }
    let protected = before - left.len();
    protect(left, half - protected, |_| true, |c| Reverse(c.connected_at));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(peer: u64) -> Candidate {
        Candidate {
            peer: PeerId(peer),
            connected_at: Duration::from_secs(1_000 + peer),
            min_ping: Some(Duration::from_millis(50)),
            last_block: None,
            last_transaction: None,
            relays_transactions: true,
            serves_blocks: true,
            group: Group(7),
            keyed_group: 0,
            local: false,
            onion: false,
            discouraged: false,
            kept: false,
        }
    }

    /// AE6. A table of one honest merit each, beside a crowd that is better in nothing else: never evicted.
    #[test]
    fn each_merit_protects() {
        type Merit = fn(&mut Candidate);
        let rows: [(&str, Merit); 9] = [
            ("group", |c| c.keyed_group = u64::MAX),
            ("ping", |c| c.min_ping = Some(Duration::from_millis(1))),
            ("transaction", |c| c.last_transaction = Some(Duration::from_secs(9_000))),
            ("block", |c| c.last_block = Some(Duration::from_secs(9_000))),
            ("age", |c| c.connected_at = Duration::ZERO),
            ("tor", |c| c.onion = true),
            ("local", |c| c.local = true),
            ("kept", |c| c.kept = true),
            ("another group", |c| c.group = Group(8)),
        ];
        for (name, merit) in rows {
            let mut crowd: Vec<Candidate> = (0..60).map(candidate).collect();
            let mut honest = candidate(60);
            merit(&mut honest);
            crowd.push(honest.clone());
            // As many leave as newcomers could push out one by one while the places stay nearly full.
            while crowd.len() > 40 {
                let evicted = choose(&crowd).expect("more than are protected");
                assert_ne!(evicted, honest.peer, "{name}");
                crowd.retain(|c| c.peer != evicted);
            }
        }
        // Without a merit it is the first to go: the youngest of the crowd.
        let crowd: Vec<Candidate> = (0..61).map(candidate).collect();
        assert_eq!(choose(&crowd), Some(PeerId(60)));
    }

    /// AE6. Few connections are all protected, and a discouraged one goes before a younger one.
    #[test]
    fn protection_and_discouraged() {
        assert_eq!(choose(&[]), None);
        let few: Vec<Candidate> = (0..20).map(candidate).collect();
        assert_eq!(choose(&few), None);
        let mut crowd: Vec<Candidate> = (0..60).map(candidate).collect();
        crowd[55].discouraged = true;
        assert_eq!(choose(&crowd), Some(PeerId(55)));
    }

    /// AE6. 114 places, 30 of them honest and useful; 10,000 sybils with the best ping of all arrive one by one.
    #[test]
    fn sybils_do_not_displace_useful_peers() {
        let mut places: Vec<Candidate> = Vec::new();
        for peer in 0..30 {
            let mut honest = candidate(peer);
            honest.group = Group(100 + peer);
            honest.keyed_group = peer;
            honest.last_block = (peer < 4).then_some(Duration::from_secs(500_000));
            honest.last_transaction = (peer % 4 == 0).then_some(Duration::from_secs(500_000 + peer));
            places.push(honest);
        }
        for sybil in 0..10_000u64 {
            let mut newcomer = candidate(1_000 + sybil);
            newcomer.group = Group(sybil % 8);
            newcomer.keyed_group = u64::MAX - sybil % 8;
            newcomer.min_ping = Some(Duration::from_millis(1));
            if places.len() == 114 {
                let evicted = choose(&places).expect("more than are protected");
                assert!(evicted.0 >= 1_000, "honest {} evicted by sybil {sybil}", evicted.0);
                places.retain(|c| c.peer != evicted);
            }
            places.push(newcomer);
        }
        assert_eq!(places.iter().filter(|c| c.peer.0 < 30).count(), 30);
    }
}
