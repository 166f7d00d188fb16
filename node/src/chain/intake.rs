//! Headers without bodies: checked by the header rules, kept in the tree, never candidates for the tip.

use super::chain::{ChainCore, Now};
use super::headers::{HeaderPoint, KnownHeader};
use super::{HeadersTaken, SubmitError};
use setara_core::block::Header;
use setara_core::consensus::header_is_early;

impl ChainCore {
    /// Takes headers, each below the next, until the first that is refused. Those before it stay; it leaves no trace.
    pub fn submit_headers(&mut self, headers: &[Header], now: Now) -> Result<HeadersTaken, SubmitError> {
        self.usable()?;
        let mut new = 0;
        let mut last: HeaderPoint = KnownHeader::from(&self.tree.node(self.tip_id())).point();
        let mut outcome = Ok(());
        for header in headers {
            match self.submit_header(header, now) {
                Ok((point, is_new)) => {
                    last = point;
                    new += u64::from(is_new);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if new > 0 {
            self.flush_headers().map_err(|fault| self.fail(fault))?;
        }
        outcome.map(|()| HeadersTaken { new, last })
    }

    fn submit_header(&mut self, header: &Header, now: Now) -> Result<(HeaderPoint, bool), SubmitError> {
        if let Some(known) = self.tree.find(&header.hash()) {
            let node = self.tree.node(known);
            if node.is_bad() {
                return Err(self.verdict(known));
            }
            return Ok((KnownHeader::from(&node).point(), false));
        }
        let (parent, state) = self.place_above(header)?;
        header_is_early(&self.network, header, now.unix_seconds).map_err(SubmitError::Early)?;
        let id = self.tree.insert(parent, state, *header);
        Ok((KnownHeader::from(&self.tree.node(id)).point(), true))
    }
}
