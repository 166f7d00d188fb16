//! The order in which a cluster's transactions would be mined, and its chunks: what is mined or evicted together.
//!
//! A cluster is at most [`CLUSTER_TRANSACTIONS_MAX`] transactions, so a set of them is one `u64` and every step is
//! bounded: picking ancestor sets takes n^2 steps, each improving pass at most n^2 / 2 swaps. The result depends only
//! on the transactions given and their order in the slice, never on how the cluster came to be.
//!
//! Not always the best possible order (that is costly); but chunks are connected, their feerates fall, and it is the
//! best whenever every transaction has at most one parent, or every one at most one child.

use super::feerate::Feerate;

/// Transactions of a cluster: bounds every computation on it, and fits a set into 64 bits (Bitcoin Core's limit).
pub const CLUSTER_TRANSACTIONS_MAX: usize = 64;

/// Transactions as bits by their position in the slice.
type Set = u64;

/// One transaction of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    /// Its own fee and size.
    pub feerate: Feerate,
    /// Positions of its parents in the same slice.
    pub parents: Set,
}

/// Consecutive transactions of an ordering that are best taken together.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Of all its transactions.
    pub feerate: Feerate,
    /// How many transactions.
    pub count: usize,
}

/// The positions in `set`, ascending.
fn positions(mut set: Set) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = set.trailing_zeros();
        (position < Set::BITS).then(|| {
            set &= set - 1;
            position as usize
        })
    })
}

/// An order of `items` (as positions, parents first) by falling feerate of chunks, and the steps it took. At most
/// [`CLUSTER_TRANSACTIONS_MAX`] items, without cycles.
pub fn linearize(items: &[Item]) -> (Vec<usize>, u64) {
    debug_assert!(items.len() <= CLUSTER_TRANSACTIONS_MAX);
    if items.len() < 2 {
        return ((0..items.len()).collect(), 1);
    }
    let mut steps = 0;
    let ancestors = closure(items.len(), |position| items[position].parents);
    let mut children = vec![0; items.len()];
    for (position, item) in items.iter().enumerate() {
        for parent in positions(item.parents) {
            children[parent] |= 1 << position;
        }
    }
    let descendants = closure(items.len(), |position| children[position]);
    let mut order = by_ancestor_sets(items, &ancestors, &descendants, &mut steps);
    // Backward is best for trees with at most one parent each, forward for at most one child each; neither undoes the
    // other's gains.
    improve(items, &mut order, &descendants, Direction::Backward, &mut steps);
    improve(items, &mut order, &ancestors, Direction::Forward, &mut steps);
    (order, steps)
}

/// Per position, everything reachable over `step`, itself included.
fn closure(count: usize, step: impl Fn(usize) -> Set) -> Vec<Set> {
    (0..count)
        .map(|position| {
            let mut reached: Set = 1 << position;
            let mut pending: Set = reached;
            while pending != 0 {
                let next = pending.trailing_zeros() as usize;
                pending &= pending - 1;
                let new = step(next) & !reached;
                reached |= new;
                pending |= new;
            }
            reached
        })
        .collect()
}

/// Again and again the set of ancestors with the highest feerate.
fn by_ancestor_sets(items: &[Item], ancestors: &[Set], descendants: &[Set], steps: &mut u64) -> Vec<usize> {
    let sum = |set: Set| positions(set).fold(Feerate::default(), |sum, position| sum.join(items[position].feerate));
    let mut sums: Vec<Feerate> = ancestors.iter().map(|set| sum(*set)).collect();
    let mut left: Set = if items.len() == CLUSTER_TRANSACTIONS_MAX { Set::MAX } else { (1 << items.len()) - 1 };
    let mut order = Vec::with_capacity(items.len());
    while left != 0 {
        *steps += u64::from(left.count_ones());
        let best = positions(left)
            .reduce(|best, other| if sums[other] > sums[best] { other } else { best })
            .unwrap_or_default();
        let mut taken: Vec<usize> = positions(ancestors[best] & left).collect();
        // Parents before children: an ancestor has strictly fewer ancestors.
        taken.sort_by_key(|position| (ancestors[*position].count_ones(), *position));
        for position in &taken {
            left &= !(1 << position);
            let own = items[*position].feerate;
            *steps += u64::from((descendants[*position] & left).count_ones());
            for descendant in positions(descendants[*position] & left) {
                let sum = &mut sums[descendant];
                *sum = Feerate::new(sum.fee - own.fee, sum.size - own.size);
            }
        }
        order.extend(taken);
    }
    order
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// A run of transactions that stay together while it moves.
struct Group {
    order: Vec<usize>,
    members: Set,
    /// What its members depend on (forward) or what depends on them (backward), members included.
    related: Set,
    feerate: Feerate,
}

/// Bitcoin Core's `PostLinearize`: each transaction joins as a group at the end, and as long as the group before it
/// has a lower feerate they swap, or, if the later one depends on it, merge. Backward does the same from the end.
fn improve(items: &[Item], order: &mut Vec<usize>, related: &[Set], direction: Direction, steps: &mut u64) {
    if direction == Direction::Backward {
        order.reverse();
    }
    let mut groups: Vec<Group> = Vec::with_capacity(order.len());
    for position in order.drain(..) {
        let mut group = Group {
            order: vec![position],
            members: 1 << position,
            related: related[position],
            feerate: items[position].feerate,
        };
        let mut place = groups.len();
        while let Some(before) = place.checked_sub(1).and_then(|before| groups.get(before)) {
            let stays = match direction {
                Direction::Forward => before.feerate >= group.feerate,
                Direction::Backward => before.feerate <= group.feerate,
            };
            if stays {
                break;
            }
            place -= 1;
            *steps += 1;
            if group.related & before.members != 0 {
                let mut merged = groups.remove(place);
                merged.order.append(&mut group.order);
                merged.members |= group.members;
                merged.related |= group.related;
                merged.feerate = merged.feerate.join(group.feerate);
                group = merged;
            }
        }
        groups.insert(place, group);
    }
    order.extend(groups.into_iter().flat_map(|group| group.order));
    if direction == Direction::Backward {
        order.reverse();
    }
}

/// Splits an order, given as its transactions' feerates, into chunks of falling feerate.
pub fn chunks(order: impl IntoIterator<Item = Feerate>) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for feerate in order {
        let mut chunk = Chunk { feerate, count: 1 };
        while let Some(before) = chunks.pop_if(|before| before.feerate < chunk.feerate) {
            chunk = Chunk { feerate: before.feerate.join(chunk.feerate), count: before.count + chunk.count };
        }
        chunks.push(chunk);
    }
    chunks.shrink_to_fit();
    chunks
}

#[cfg(test)]
mod tests {
    use super::super::feerate::compare_diagrams;
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    fn diagram(items: &[Item], order: &[usize]) -> Vec<Feerate> {
        chunks(order.iter().map(|position| items[*position].feerate)).iter().map(|chunk| chunk.feerate).collect()
    }

    fn is_topological(items: &[Item], order: &[usize]) -> bool {
        let mut placed: Set = 0;
        for position in order {
            if items[*position].parents & !placed != 0 || placed & (1 << position) != 0 {
                return false;
            }
            placed |= 1 << position;
        }
        order.len() == items.len()
    }

    /// The best diagram by trying every set: repeatedly the closed set of highest feerate, the largest among equals.
    fn best(items: &[Item]) -> Vec<Feerate> {
        let mut done: Set = 0;
        let all: Set = (1 << items.len()) - 1;
        let mut best = Vec::new();
        while done != all {
            let (set, feerate) = (1..=all)
                .filter(|set| set & done == 0)
                .filter(|set| positions(*set).all(|position| items[position].parents & !(set | done) == 0))
                .map(|set| {
                    let sum = positions(set).fold(Feerate::default(), |sum, p| sum.join(items[p].feerate));
                    (set, sum)
                })
                .max_by(|a, b| a.1.cmp(&b.1))
                .unwrap();
            done |= set;
            best.push(feerate);
        }
        best
    }

    /// Items whose parents come earlier in the slice or, when `reversed`, later: order must not depend on positions.
    fn items(raw: &[(u64, u64, u64)], reversed: bool) -> Vec<Item> {
        let mut items: Vec<Item> = raw
            .iter()
            .enumerate()
            .map(|(position, (fee, size, parents))| Item {
                feerate: Feerate::new(*fee, *size),
                parents: parents & ((1 << position) - 1),
            })
            .collect();
        if reversed {
            let count = items.len();
            items.reverse();
            for item in &mut items {
                item.parents = positions(item.parents).fold(0, |set, position| set | 1 << (count - 1 - position));
            }
        }
        items
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// MP7, MP8: against an exhaustive search the order is valid, never "better than the best", its chunks fall,
        /// and it is the best wherever every transaction has at most one parent or every one at most one child.
        #[test]
        fn orders_hold_against_exhaustive_search(
            raw in proptest::collection::vec((0..100u64, 1..20u64, any::<u64>()), 1..8),
            shape in 0..3u8,
            reversed in any::<bool>(),
        ) {
            let mut raw = raw;
            for (position, (_, _, parents)) in raw.iter_mut().enumerate() {
                match shape {
                    // At most one parent.
                    0 if position > 0 => *parents = 1 << (*parents % position as u64),
                    // Any.
                    _ => {}
                }
            }
            if shape == 1 {
                // At most one child: each transaction's only child is drawn, then turned into parents.
                let children: Vec<u64> = raw.iter().map(|(_, _, draw)| *draw).collect();
                let count = raw.len();
                for item in &mut raw {
                    item.2 = 0;
                }
                for (position, draw) in children.iter().enumerate().take(count - 1) {
                    let child = position + 1 + usize::try_from(draw % (count - 1 - position) as u64).unwrap();
                    raw[child].2 |= 1 << position;
                }
            }
            let items = items(&raw, reversed);
            let (order, _) = linearize(&items);
            prop_assert!(is_topological(&items, &order));
            let ours = diagram(&items, &order);
            prop_assert!(ours.windows(2).all(|pair| pair[0] >= pair[1]));
            let verdict = compare_diagrams(&ours, &best(&items));
            if shape < 2 {
                prop_assert_eq!(verdict, Some(Ordering::Equal));
            } else {
                prop_assert!(matches!(verdict, Some(Ordering::Equal | Ordering::Less)));
            }
        }
    }

    #[test]
    fn a_child_pays_for_its_parents() {
        // Two poor parents, a rich child of both, and a middling loner.
        let items = [
            Item { feerate: Feerate::new(1, 100), parents: 0 },
            Item { feerate: Feerate::new(2, 100), parents: 0 },
            Item { feerate: Feerate::new(900, 100), parents: 0b11 },
            Item { feerate: Feerate::new(200, 100), parents: 0 },
        ];
        let (order, _) = linearize(&items);
        assert_eq!(order.iter().position(|p| *p == 2), Some(2));
        assert_eq!(order[3], 3);
        let chunks = chunks(order.iter().map(|position| items[*position].feerate));
        assert_eq!(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>(), [3, 1]);
    }

    /// MP8: the largest clusters of the worst shapes stay within the promised work.
    #[test]
    fn worst_shapes_are_ordered_whole() {
        type OfPosition = fn(u64) -> u64;
        let shapes: [(&str, OfPosition); 5] = [
            ("chain", |position| if position == 0 { 0 } else { 1 << (position - 1) }),
            ("star", |position| u64::from(position != 0)),
            ("complete", |position| (1 << position) - 1),
            ("two rows", |position| if position < 32 { 0 } else { (1 << 32) - 1 }),
            ("braid", |position| if position < 2 { 0 } else { 0b11 << (position - 2) }),
        ];
        for (name, parents) in shapes {
            for fees in [(|p| p) as OfPosition, |p| 64 - p, |p| p * 37 % 64, |_| 5] {
                let items: Vec<Item> =
                    (0..64).map(|p| Item { feerate: Feerate::new(fees(p), 100), parents: parents(p) }).collect();
                let (order, steps) = linearize(&items);
                assert!(is_topological(&items, &order), "{name}");
                assert!(steps <= 3 * 64 * 64, "{name}: {steps} steps");
            }
        }
    }
}
