//! What already stands where a candidate would: the same transaction, or others that spend its coins.

use super::Inner;
use super::admit::Candidate;
use super::error::MempoolError;
use super::feerate::fee_for;
use super::graph::{Entry, Id};
use super::policy::{Options, REPLACED_CLUSTERS_MAX, twin_replaces};
use super::weight;
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use std::collections::BTreeSet;

/// What stands where a candidate would.
pub(super) enum Standing {
    /// Nothing, or these, which spend the same coins.
    Conflicts(BTreeSet<Id>),
    /// The same transaction with a larger witness.
    Twin(Id),
}

impl Standing {
    /// Whether nothing would be replaced.
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Conflicts(conflicts) if conflicts.is_empty())
    }
}

impl Inner {
    /// What is here already, and as much of the replacement rules as is cheap.
    pub(super) fn standing(&self, options: &Options, candidate: &Candidate) -> Result<Standing, MempoolError> {
        let ids = &candidate.checked.ids;
        if self.graph.id_of_wtxid(&ids.wtxid).is_some() {
            return Err(MempoolError::AlreadyInMempool);
        }
        if let Some((id, node)) = self.graph.id_of(&ids.txid).and_then(|id| Some((id, self.graph.node(id)?))) {
            if twin_replaces(ids.size, node.entry.ids.size) {
                return Ok(Standing::Twin(id));
            }
            return Err(MempoolError::SameTxid { wtxid: node.entry.ids.wtxid });
        }
        let inputs = &candidate.transaction.inputs;
        let conflicts: BTreeSet<Id> = inputs.iter().filter_map(|input| self.graph.spender(&input.outpoint)).collect();
        if !conflicts.is_empty() {
            let clusters = self.graph.clusters_of(&conflicts).len();
            if clusters > REPLACED_CLUSTERS_MAX {
                let max = weight::count(REPLACED_CLUSTERS_MAX);
                return Err(MempoolError::ReplacementClusters { got: weight::count(clusters), max });
            }
            // At least the direct conflicts must be paid for; their descendants are added up under the final look.
            self.pays_for(options, candidate.checked.fee, ids.size, &conflicts)?;
        }
        Ok(Standing::Conflicts(conflicts))
    }

    /// "Fee >= all replaced, plus the increment for its own size."
    fn pays_for(&self, options: &Options, fee: Amount, size: u64, replaced: &BTreeSet<Id>) -> Result<(), MempoolError> {
        let fees = replaced.iter().filter_map(|id| self.graph.node(*id)).map(|node| node.entry.fee.sen());
        let needed = fees.fold(fee_for(options.increment, size), u64::saturating_add);
        if fee.sen() < needed {
            return Err(MempoolError::ReplacementFee { got: fee, needed: Amount::from_sen(needed) });
        }
        Ok(())
    }

    /// The conflicts with all that depends on them, if the entry may replace them as far as fees and ancestry go.
    pub(super) fn replaced(
        &self,
        options: &Options,
        entry: &Entry,
        conflicts: &BTreeSet<Id>,
    ) -> Result<(BTreeSet<Id>, Vec<TxId>), MempoolError> {
        if conflicts.is_empty() {
            return Ok((BTreeSet::new(), Vec::new()));
        }
        let all = self.graph.with_descendants(conflicts.iter().copied());
        let txid_of = |id: &Id| self.graph.node(*id).map(|node| node.entry.ids.txid);
        let parents = self.graph.parents_of(&entry.transaction);
        if let Some(txid) = parents.iter().find(|parent| all.contains(parent)).and_then(txid_of) {
            return Err(MempoolError::SpendsConflicting { txid });
        }
        self.pays_for(options, entry.fee, entry.ids.size, &all)?;
        let txids = all.iter().filter_map(txid_of).collect();
        Ok((all, txids))
    }
}
