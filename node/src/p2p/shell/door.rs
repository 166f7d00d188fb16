//! The gate among tasks: who was admitted holds a place until it is dropped, and hears when it is given to another.

use super::gate::{Admission, Gate, Ticket};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A gate that tasks share.
#[derive(Debug)]
pub struct Door(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    gate: Gate,
    shaking: BTreeMap<Ticket, CancellationToken>,
}

/// A handshake's place.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    ticket: Ticket,
    given_up: CancellationToken,
}

impl Door {
    /// Open for so many handshakes at a time. With `allow_private`, dials from private and loopback addresses are not counted by place.
    pub fn new(allow_private: bool, handshakes_max: usize) -> Arc<Self> {
        let gate = Gate::new(allow_private, handshakes_max);
        Arc::new(Self(Mutex::new(Inside { gate, shaking: BTreeMap::new() })))
    }

    /// A place for a handshake with somebody who dials from `address`, if there is one.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now: Duration) -> Option<Place> {
        let mut inside = self.0.lock();
        let Admission { ticket, instead_of } = inside.gate.admit(address, now)?;
        if let Some(given_up) = instead_of.and_then(|ticket| inside.shaking.remove(&ticket)) {
            given_up.cancel();
        }
        let given_up = CancellationToken::new();
        inside.shaking.insert(ticket, given_up.clone());
        Some(Place { door: self.clone(), ticket, given_up })
    }
}

impl Place {
    /// Ends when the place has been given to another.
    pub async fn given_up(&self) {
        self.given_up.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.0.lock();
        inside.gate.done(self.ticket);
        inside.shaking.remove(&self.ticket);
    }
}
