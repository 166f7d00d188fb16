//! WK9: payments through confirmations, reorganisations, double spends, crashes and a node that is not there.

use super::mock::Reply;
use super::{Fixture, STRANGER, coins};
use crate::history::Settled;
use crate::keystore::{Chain, KeyPath, Label, Wallet};
use crate::random::tests::Seeded;
use crate::random::uniform;
use crate::spend;
use crate::sync::Status;
use setara_core::amount::Amount;
use setara_core::codec::encode;
use setara_core::hash::TxId;
use setara_core::transaction::{Input, Output, SigningContext, Transaction, Witness};

fn status(fixture: &mut Fixture, txid: TxId) -> Status {
    fixture.look().unwrap().statuses[&txid]
}

#[test]
fn a_payment_goes_from_pending_to_confirmed_and_its_bytes_are_forgotten() {
    let mut fixture = Fixture::with_coins(2);
    let draft = fixture.send(STRANGER, coins(6), None).unwrap();
    let txid = draft.ids.txid;
    assert!(fixture.mock.in_mempool(txid));
    let balance = fixture.balance();
    assert_eq!(balance.confirmed, Amount::ZERO);
    assert_eq!(balance.pending.sen(), coins(4) - draft.plan.fee.sen());
    assert_eq!(status(&mut fixture, txid), Status::InMempool);
    fixture.mock.mine(STRANGER);
    assert!(matches!(status(&mut fixture, txid), Status::Confirmed(_)));
    assert_eq!(fixture.balance().confirmed.sen(), coins(4) - draft.plan.fee.sen());
    fixture.mock.mine_many(STRANGER, 100);
    fixture.look().unwrap();
    assert_eq!(status(&mut fixture, txid), Status::Final);
    assert!(fixture.wallet.state.payments[0].raw.is_empty());
}

/// WK8. Every payment's change goes to an address never used before.
#[test]
fn change_addresses_are_fresh() {
    let mut fixture = Fixture::with_coins(3);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let draft = fixture.send(STRANGER, coins(1), None).unwrap();
        let change = draft.transaction.outputs.iter().find(|output| output.address != STRANGER).unwrap();
        assert!(seen.insert(change.address));
        fixture.mock.mine(STRANGER);
    }
    // A dry run uses none up.
    let next = fixture.wallet.state.next_change;
    fixture.draft(STRANGER, coins(1)).unwrap();
    assert_eq!(fixture.wallet.state.next_change, next);
}

#[test]
fn coins_of_a_payment_on_its_way_are_not_spent_again() {
    let mut fixture = Fixture::with_coins(2);
    let first = fixture.send(STRANGER, coins(4), None).unwrap();
    let second = fixture.send(STRANGER, coins(4), None).unwrap();
    let spent = |transaction: &Transaction| transaction.inputs.iter().map(|input| input.outpoint).collect::<Vec<_>>();
    assert!(spent(&first.transaction).iter().all(|outpoint| !spent(&second.transaction).contains(outpoint)));
    // What is left is the change of both, still unconfirmed: enough for a third, not for more than there is.
    let third = fixture.send(STRANGER, coins(1) + coins(1) / 2, None).unwrap();
    assert_eq!(third.transaction.inputs.len(), 2);
    let error = fixture.send(STRANGER, coins(4), None).unwrap_err();
    assert_eq!(error.code(), "insufficient-funds");
    assert!(error.to_string().contains("wait to be confirmed"), "{error}");
    fixture.mock.mine(STRANGER);
    assert_eq!(fixture.mock.ledger.lock().unwrap().blocks.last().unwrap().transactions.len(), 3);
}

#[test]
fn a_send_id_pays_once() {
    let mut fixture = Fixture::with_coins(2);
    let stranger = STRANGER.to_text(&fixture.wallet.network().prefix);
    let draft = fixture.send(STRANGER, coins(1), Some("invoice 1")).unwrap();
    let amount = Some(Amount::from_sen(coins(1)));
    let repeated = |fixture: &mut Fixture, address: &str, amount| {
        let view = fixture.look().unwrap();
        spend::repeated(&fixture.wallet, &view, "invoice 1", address, amount).map(|payment| payment.map(|p| p.txid))
    };
    assert_eq!(repeated(&mut fixture, &stranger, amount).unwrap(), Some(draft.ids.txid));
    // Lost by the node: the same transaction again, not another one.
    fixture.mock.ledger.lock().unwrap().mempool.clear();
    assert_eq!(repeated(&mut fixture, &stranger, amount).unwrap(), Some(draft.ids.txid));
    assert!(fixture.mock.in_mempool(draft.ids.txid));
    fixture.mock.mine_many(STRANGER, 150);
    assert_eq!(repeated(&mut fixture, &stranger, amount).unwrap(), Some(draft.ids.txid));
    // The same name for another payment is a mistake.
    let other = Some(Amount::from_sen(coins(2)));
    assert_eq!(repeated(&mut fixture, &stranger, other).unwrap_err().code(), "send-id");
    assert_eq!(repeated(&mut fixture, "dset1other", amount).unwrap_err().code(), "send-id");
    let view = fixture.look().unwrap();
    assert!(spend::repeated(&fixture.wallet, &view, "invoice 2", &stranger, amount).unwrap().is_none());
}

/// The answer to a broadcast is lost, whether or not the node took the transaction.
#[test]
fn a_lost_answer_never_pays_twice() {
    for taken in [false, true] {
        let mut fixture = Fixture::with_coins(2);
        fixture.mock.ledger.lock().unwrap().accepts = true;
        let ledger = std::sync::Arc::clone(&fixture.mock.ledger);
        fixture.mock.lie(move |method, _, reply| match method {
            "sendrawtransaction" => {
                if !taken {
                    ledger.lock().unwrap().mempool.clear();
                }
                Reply::Hangup
            }
            _ => reply,
        });
        let error = fixture.send(STRANGER, coins(6), Some("once")).unwrap_err();
        assert_eq!(error.code(), "send-unknown");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("once"));
        fixture.mock.be_honest();
        // The coins stay reserved, and the payment is sent again by itself.
        let txid = fixture.wallet.state.payments[0].txid;
        assert_eq!(status(&mut fixture, txid), Status::InMempool);
        assert!(fixture.mock.in_mempool(txid));
        assert_eq!(fixture.send(STRANGER, coins(6), None).unwrap_err().code(), "insufficient-funds");
        fixture.mock.mine(STRANGER);
        assert!(matches!(status(&mut fixture, txid), Status::Confirmed(_)));
        let paid = fixture.mock.ledger.lock().unwrap().coins();
        let to_stranger = paid.values().filter(|(output, _, coinbase)| output.address == STRANGER && !coinbase);
        assert_eq!(to_stranger.count(), 1);
    }
}

#[test]
fn a_plain_refusal_leaves_no_trace() {
    let mut fixture = Fixture::with_coins(1);
    fixture.mock.ledger.lock().unwrap().accepts = false;
    let error = fixture.send(STRANGER, coins(1), Some("x")).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("rejected", 4));
    fixture.mock.ledger.lock().unwrap().accepts = true;
    assert!(fixture.wallet.state.payments.is_empty());
    assert_eq!(fixture.balance().confirmed.sen(), coins(5));
    fixture.send(STRANGER, coins(1), Some("x")).unwrap();
}

/// A node allows a payment, refuses it once it has it, and passes it on all the same, or does not: the wallet cannot
/// tell. The payment is kept, its coins stay reserved, and its name never pays a second time.
#[test]
fn a_refusal_after_consent_never_pays_twice() {
    for (relays, hides) in [(false, false), (true, false), (true, true)] {
        let mut fixture = Fixture::with_coins(2);
        let stranger = STRANGER.to_text(&fixture.wallet.network().prefix);
        let amount = Some(Amount::from_sen(coins(4)));
        let ledger = std::sync::Arc::clone(&fixture.mock.ledger);
        fixture.mock.lie(move |method, _, reply| match method {
            "sendrawtransaction" => {
                if !relays {
                    ledger.lock().unwrap().mempool.clear();
                }
                Reply::Error(-26, "min-relay-fee-not-met".into())
            }
            "getaddressmempool" if hides => Reply::Result(serde_json::json!([])),
            _ => reply,
        });
        let error = fixture.send(STRANGER, coins(4), Some("once")).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("send-unknown", 3));
        for words in ["after allowing it", "min-relay-fee-not-met", "kept as once", "twice"] {
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
        let txid = fixture.wallet.state.payments[0].txid;
        // The same name means the same transaction, whatever the node says of it.
        let view = fixture.look().unwrap();
        let again = spend::repeated(&fixture.wallet, &view, "once", &stranger, amount);
        if relays && !hides {
            assert_eq!(again.unwrap().unwrap().txid, txid);
        } else {
            assert_eq!(again.unwrap_err().code(), "send-unknown");
            assert_eq!(view.statuses[&txid], Status::Waiting);
        }
        // Its coins are nobody else's.
        let reserved = spend::draft(
            &fixture.wallet,
            &fixture.mock.node(),
            &view,
            &fixture.order(STRANGER, coins(6)),
            &mut crate::random::OsEntropy,
        );
        assert_eq!(reserved.unwrap_err().code(), "insufficient-funds");
        fixture.mock.be_honest();
        assert_eq!(status(&mut fixture, txid), Status::InMempool);
        fixture.mock.mine(STRANGER);
        assert!(matches!(status(&mut fixture, txid), Status::Confirmed(_)));
        let paid = fixture.mock.ledger.lock().unwrap().coins();
        let to_stranger = paid.values().filter(|(output, _, coinbase)| output.address == STRANGER && !coinbase);
        assert_eq!(to_stranger.count(), 1);
    }
}

/// A payment refused after the node allowed it gives its coins back when another transaction is proven to spend them.
#[test]
fn a_refused_payment_is_released_by_a_rival_in_a_block() {
    let mut fixture = Fixture::with_coins(1);
    fixture.mock.lie(|method, _, reply| match method {
        "sendrawtransaction" => Reply::Error(-26, "txn-mempool-conflict".into()),
        _ => reply,
    });
    fixture.send(STRANGER, coins(1), None).unwrap_err();
    fixture.mock.be_honest();
    let first = fixture.mock.ledger.lock().unwrap().mempool.pop().unwrap();
    let rival = rival(&fixture, &first);
    fixture.mock.ledger.lock().unwrap().mine(STRANGER, vec![rival.clone()]);
    assert_eq!(status(&mut fixture, first.txid()), Status::Conflicted(rival.txid()));
    assert_eq!(fixture.balance().confirmed.sen(), coins(5) - 5_000);
    fixture.send(STRANGER, coins(1), None).unwrap();
}

/// A payment that is saved and not sent (a crash in between) is sent by the next look, from the file alone.
#[test]
fn a_crash_between_saving_and_sending_loses_nothing() {
    let mut fixture = Fixture::with_coins(1);
    fixture.mock.lie(|method, _, reply| if method == "sendrawtransaction" { Reply::Hangup } else { reply });
    fixture.send(STRANGER, coins(1), None).unwrap_err();
    fixture.mock.be_honest();
    fixture.mock.ledger.lock().unwrap().mempool.clear();
    let path = fixture._directory.path().join("wallet");
    let Fixture { mock, wallet, _directory } = fixture;
    drop(wallet);
    let wallet = Wallet::open(&path, |_: &Label| Ok("password")).unwrap();
    let mut fixture = Fixture { mock, wallet, _directory };
    let txid = fixture.wallet.state.payments[0].txid;
    assert_eq!(status(&mut fixture, txid), Status::InMempool);
    assert!(fixture.mock.in_mempool(txid));
}

/// A transaction of the same keys, made by another copy of the wallet, that spends the coins of `first`.
fn rival(fixture: &Fixture, first: &Transaction) -> Transaction {
    let total: u64 = first.inputs.iter().map(|input| input.amount.sen()).sum();
    let inputs: Vec<Input> = first.inputs.clone();
    let output = Output { amount: Amount::from_sen(total - 5_000), address: fixture.address(Chain::Receive, 0) };
    let mut transaction =
        Transaction { inputs, outputs: vec![output], valid_from: 0, memo: vec![1], witnesses: vec![] };
    let addresses = first.spent_addresses();
    let context = SigningContext::new(fixture.wallet.network().genesis_hash(), transaction.txid(), &addresses);
    for (index, address) in (0u32..).zip(&addresses) {
        let path = (0..50)
            .flat_map(|index| [Chain::Receive, Chain::Change].map(|chain| KeyPath { chain, index }))
            .find(|path| fixture.wallet.keys().address(*path) == *address)
            .unwrap();
        let key = fixture.wallet.keys().secret(path);
        transaction.witnesses.push(Witness {
            policy: setara_core::policy::SpendPolicy::Key(key.public_key()),
            signatures: vec![key.sign(&context.message(index, &[])).unwrap()],
            preimages: vec![],
            future: vec![],
        });
    }
    transaction
}

#[test]
fn a_double_spend_is_seen_and_undone_by_a_reorganisation() {
    let mut fixture = Fixture::with_coins(1);
    let stranger = STRANGER.to_text(&fixture.wallet.network().prefix);
    let draft = fixture.send(STRANGER, coins(1), Some("doomed")).unwrap();
    let txid = draft.ids.txid;
    let rival = rival(&fixture, &draft.transaction);
    {
        let mut ledger = fixture.mock.ledger.lock().unwrap();
        ledger.mempool.clear();
        ledger.mine(STRANGER, vec![rival.clone()]);
    }
    assert_eq!(status(&mut fixture, txid), Status::Conflicted(rival.txid()));
    // The rival paid this wallet: that money counts, the conflicted change does not.
    let balance = fixture.balance();
    assert_eq!(balance.confirmed.sen(), coins(5) - 5_000);
    assert_eq!(balance.pending, Amount::ZERO);
    let view = fixture.look().unwrap();
    let amount = Some(Amount::from_sen(coins(1)));
    let repeated = spend::repeated(&fixture.wallet, &view, "doomed", &stranger, amount);
    assert_eq!(repeated.unwrap_err().code(), "send-id");
    let entries = fixture.history().unwrap();
    let entry = entries.iter().find(|entry| entry.txid == txid).unwrap();
    assert_eq!(entry.settled, Settled::Conflicted(rival.txid()));
    assert_eq!(entry.amount, -i128::from(coins(1)));
    // The rival's block is reorganised away without it: the payment lives again, and is sent again.
    fixture.mock.revert(1, false);
    fixture.mock.mine(STRANGER);
    assert_eq!(status(&mut fixture, txid), Status::InMempool);
    fixture.mock.mine(STRANGER);
    assert!(matches!(status(&mut fixture, txid), Status::Confirmed(_)));
}

/// While the rival is unconfirmed either may win: its coins are spent once, and only what is on its way counts.
#[test]
fn an_unconfirmed_rival_is_not_counted_twice() {
    let mut fixture = Fixture::with_coins(1);
    let draft = fixture.send(STRANGER, coins(1), None).unwrap();
    let rival = rival(&fixture, &draft.transaction);
    fixture.mock.ledger.lock().unwrap().mempool = vec![rival.clone()];
    assert_eq!(status(&mut fixture, draft.ids.txid), Status::Waiting);
    let balance = fixture.balance();
    assert_eq!((balance.confirmed.sen(), balance.pending.sen()), (0, coins(5) - 5_000));
    fixture.mock.mine(STRANGER);
    assert_eq!(status(&mut fixture, draft.ids.txid), Status::Conflicted(rival.txid()));
    assert_eq!(fixture.balance().confirmed.sen(), coins(5) - 5_000);
}

/// A node that only says "spent" proves nothing: the payment stays alive and its coins reserved.
#[test]
fn a_conflict_needs_proof() {
    let mut fixture = Fixture::with_coins(1);
    let draft = fixture.send(STRANGER, coins(1), None).unwrap();
    let txid = draft.ids.txid;
    fixture.mock.ledger.lock().unwrap().mempool.clear();
    fixture.mock.ledger.lock().unwrap().accepts = false;
    assert_eq!(status(&mut fixture, txid), Status::Waiting);
    assert_eq!(fixture.balance().confirmed, Amount::ZERO);
    // Its change is not on its way, since the mempool does not have it; nor is it gone.
    let balance = fixture.balance();
    assert_eq!((balance.pending.sen(), balance.waiting.sen()), (0, coins(4) - draft.plan.fee.sen()));
    let error = fixture.send(STRANGER, coins(1), None).unwrap_err();
    assert_eq!(error.code(), "insufficient-funds");
    assert!(error.to_string().contains("change of payments that the node does not take"), "{error}");
    // Taken again, it is pending again.
    fixture.mock.ledger.lock().unwrap().accepts = true;
    let balance = fixture.balance();
    assert_eq!((balance.pending.sen(), balance.waiting.sen()), (coins(4) - draft.plan.fee.sen(), 0));
}

/// A node whose chain ends more than 100 blocks below where a payment was made (its data directory was made anew, say)
/// lacks the payment's coins, and every block that could prove a rival. The wallet still works, and the payment waits.
#[test]
fn a_node_far_below_an_open_payment_is_no_failure() {
    let mut fixture = Fixture::with_coins(1);
    fixture.mock.mine_many(STRANGER, 400);
    let draft = fixture.send(STRANGER, coins(1), None).unwrap();
    for keep in [150, 1, 0] {
        let tip = usize::try_from(fixture.mock.ledger.lock().unwrap().tip()).unwrap();
        fixture.mock.revert(tip - keep, false);
        let mut ledger = fixture.mock.ledger.lock().unwrap();
        ledger.accepts = false;
        ledger.mempool.clear();
        drop(ledger);
        assert_eq!(status(&mut fixture, draft.ids.txid), Status::Waiting, "{keep}");
        assert_eq!(fixture.balance().confirmed, Amount::ZERO);
        assert_eq!(fixture.history().unwrap().last().unwrap().txid, draft.ids.txid);
        assert_eq!(fixture.send(STRANGER, coins(1), None).unwrap_err().code(), "insufficient-funds");
    }
    // In a chain made anew another transaction cannot have spent that coin; what it holds is found all the same.
    let fresh = fixture.fresh();
    fixture.mock.mine(fresh);
    assert_eq!(fixture.balance().immature.sen(), coins(5));
}

/// Reorganisations, payments, receipts and lost mempools in random order: the balance is always that of a rescan by
/// other code, and no payment is lost or made twice.
#[test]
fn reorganisation_storms_leave_the_balance_of_a_rescan() {
    let mut fixture = Fixture::with_coins(8);
    let mut entropy = Seeded::new(99);
    let mut draw = |below: u64| uniform(&mut entropy, below).unwrap();
    let mut payments = 0u32;
    for step in 0..150 {
        match draw(6) {
            0 => fixture.mock.mine(STRANGER),
            1 => {
                let address = fixture.fresh();
                fixture.mock.mine(address);
            }
            2 | 3 => {
                if fixture.send(STRANGER, coins(1) / 10 + draw(coins(1)), None).is_ok() {
                    payments += 1;
                }
            }
            4 => fixture.mock.revert(usize::try_from(draw(5)).unwrap(), draw(2) == 0),
            _ => fixture.mock.ledger.lock().unwrap().mempool.clear(),
        }
        let view = fixture.look().unwrap();
        let balance = view.balance().unwrap();
        let expected = rescan(&fixture);
        assert_eq!((balance.confirmed.sen(), balance.immature.sen(), balance.pending.sen()), expected, "step {step}");
    }
    assert!(payments > 20);
    // In the end everything that was paid is paid, once.
    fixture.look().unwrap();
    fixture.mock.mine(STRANGER);
    let view = fixture.look().unwrap();
    assert!(view.statuses.values().all(|status| matches!(status, Status::Confirmed(_) | Status::Final)));
    let entries = fixture.history().unwrap();
    let sum: i128 = entries.iter().map(|entry| entry.amount - i128::from(entry.fee.sen())).sum();
    let balance = view.balance().unwrap();
    assert_eq!(sum, i128::from(balance.confirmed.sen()) + i128::from(balance.immature.sen()));
    assert_eq!(balance.pending, Amount::ZERO);
    let outgoing = entries.iter().filter(|entry| entry.amount < 0).count();
    assert_eq!(u32::try_from(outgoing).unwrap(), payments);
}

/// Confirmed, immature and pending, by the mock's own books and the first 2 x 500 addresses.
fn rescan(fixture: &Fixture) -> (u64, u64, u64) {
    let ours: std::collections::BTreeSet<_> = (0..500)
        .flat_map(|index| [fixture.address(Chain::Receive, index), fixture.address(Chain::Change, index)])
        .collect();
    let ledger = fixture.mock.ledger.lock().unwrap();
    let spent: std::collections::BTreeSet<_> =
        ledger.mempool.iter().flat_map(|transaction| &transaction.inputs).map(|input| input.outpoint).collect();
    let (mut confirmed, mut immature, mut pending) = (0, 0, 0);
    for (outpoint, (output, height, coinbase)) in ledger.coins() {
        if !ours.contains(&output.address) || spent.contains(&outpoint) {
            continue;
        }
        let mature = !coinbase || ledger.tip() + 1 - height >= ledger.network.maturity;
        *(if mature { &mut confirmed } else { &mut immature }) += output.amount.sen();
    }
    for transaction in &ledger.mempool {
        assert!(!encode(transaction).is_empty());
        let txid = transaction.txid();
        for (index, output) in (0u32..).zip(&transaction.outputs) {
            let outpoint = setara_core::transaction::OutPoint::new(txid, index);
            if ours.contains(&output.address) && !spent.contains(&outpoint) {
                pending += output.amount.sen();
            }
        }
    }
    (confirmed, immature, pending)
}
