//! The commands: what each asks, does and prints.

use crate::account;
use crate::args::{Arguments, ChooseNetwork, Command, Global, Send};
use crate::error::WalletError;
use crate::history;
use crate::keystore::{self, Keys, Label, Seed, Used, Wallet};
use crate::network;
use crate::node::Node;
use crate::output;
use crate::random::{OsEntropy, uniform};
use crate::secret::{self, NEW_PASSWORD_VARIABLE, PASSWORD_VARIABLE, Source};
use crate::spend::{self, Draft, Fee, Order};
use crate::sync;
use serde_json::{Value, json};
use setara_core::amount::Amount;
use setara_core::network::Network;
use std::io;
use std::path::{Path, PathBuf};

/// Words that must be typed again when a wallet is made.
const WORDS_RETYPED: usize = 3;
/// Attempts at each.
const RETYPE_ATTEMPTS: u32 = 3;

/// Runs one command.
pub fn run(arguments: Arguments) -> Result<(), WalletError> {
    let global = &arguments.global;
    // Not left to clap: it does not see a conflict of one flag before the command with another after it.
    if global.password_file.is_some() && global.password_stdin {
        return Err(WalletError::Usage("--password-file and --password-stdin exclude each other".into()));
    }
    match arguments.command {
        Command::Create { network } => create(global, &network),
        Command::Restore { network, mnemonic_file, mnemonic_stdin, gap } => {
            let source = words_source(mnemonic_file, mnemonic_stdin);
            restore(global, &network, &source, gap)
        }
        Command::Address => address(global, false),
        Command::Receive => address(global, true),
        Command::Balance => balance(global),
        Command::Send(send) => pay(global, &send),
        Command::History { limit } => list(global, limit),
        Command::ChangePassword { new_password_file, new_password_stdin } => {
            change_password(global, new_password_file, new_password_stdin)
        }
        Command::Completions { shell } => completions(shell),
    }
}

fn create(global: &Global, choose: &ChooseNetwork) -> Result<(), WalletError> {
    let path = wallet_path(global)?;
    keystore::refuse_existing(&path)?;
    let network = choose_network(global, choose)?;
    let may_ask = output::is_interactive() && !global.yes && !global.json;
    if !may_ask && !global.yes && !global.json {
        return Err(needs_yes("the words could not be checked by typing some of them again"));
    }
    let password = secret::password(&new_password_source(global))?;
    let seed = Seed::generate(&mut OsEntropy)?;
    let words = seed.words();
    if !global.json {
        show_words(&words)?;
    }
    if may_ask {
        check_retyped(&words)?;
    }
    let mut wallet = Wallet::create(&path, password.as_bytes(), seed, network, Used::default())?;
    let address = wallet.next_address()?;
    if global.json {
        return print_json(&json!({ "mnemonic": &*words, "address": address }));
    }
    print_text(&format!(
        "\nMade {} for the network {}.\nYour first address:\n\n  {address}\n",
        path.display(),
        wallet.network().name
    ))
}

fn show_words(words: &str) -> Result<(), WalletError> {
    let numbered: Vec<String> =
        words.split(' ').enumerate().map(|(index, word)| format!("{:2}. {word:<10}", index + 1)).collect();
    let rows: String = numbered.chunks(4).map(|row| format!("  {}\n", row.concat().trim_end())).collect();
    print_text(&format!(
        "Write these {} words down, in order, on paper. They are the money: whoever has them has it, and without \
         them\na lost file or password loses it. They are shown this once.\n\n{rows}",
        numbered.len()
    ))
}

/// Lets the user type a few of the words again: a list that was not written down is noticed now, not in a year.
fn check_retyped(words: &str) -> Result<(), WalletError> {
    let words: Vec<&str> = words.split(' ').collect();
    let mut asked = std::collections::BTreeSet::new();
    while asked.len() < WORDS_RETYPED.min(words.len()) {
        asked.insert(usize::try_from(uniform(&mut OsEntropy, words.len() as u64)?).unwrap_or(0));
    }
    for index in asked {
        let mut right = false;
        for _ in 0..RETYPE_ATTEMPTS {
            let typed = ask_line(&format!("Word {}: ", index + 1))?;
            if typed.eq_ignore_ascii_case(words[index]) {
                right = true;
                break;
            }
            output::note("That is not the word. Look at your paper.\n");
        }
        if !right {
            return Err(WalletError::Cancelled);
        }
    }
    Ok(())
}

fn restore(global: &Global, choose: &ChooseNetwork, words: &Source, gap: u32) -> Result<(), WalletError> {
    let path = wallet_path(global)?;
    keystore::refuse_existing(&path)?;
    let network = choose_network(global, choose)?;
    let node = connect(global, &network)?;
    // Before anything is typed or written: is there a node to look through?
    node.tip(&network)?;
    let password = secret::password(&new_password_source(global))?;
    let seed = Seed::from_words(&secret::words(words)?)?;
    // Found before anything is written: a search that breaks off leaves no half-restored file behind.
    let found = account::discover(&Keys::new(&seed), &network, &node, gap)?;
    let mut wallet = Wallet::create(&path, password.as_bytes(), seed, network, found.used)?;
    let found = found.addresses;
    let view = look(global, &mut wallet, &node)?;
    let (balance, height) = (view.balance()?, view.tip.height);
    if global.json {
        let confirmed = balance.confirmed;
        return print_json(&json!({ "addresses_found": found, "confirmed": confirmed, "height": height }));
    }
    let ticker = &wallet.network().ticker;
    print_text(&format!(
        "Made {} for the network {}.\nFound {found} used addresses and {} {ticker} confirmed, in the chain up to block \
         {height} of {} UTC.\n",
        path.display(),
        wallet.network().name,
        balance.confirmed,
        output::utc(u64::from(view.tip_time))
    ))
}

fn address(global: &Global, qr: bool) -> Result<(), WalletError> {
    let mut wallet = open(global)?;
    let address = wallet.next_address()?;
    if let Some(warning) = account::gap_warning(&wallet) {
        match global.json {
            true => output::warning(true, "gap", &warning),
            false => output::note(&format!("{warning}\n")),
        }
    }
    if global.json {
        return print_json(&json!({ "address": address }));
    }
    match output::qr(&address).filter(|_| qr) {
        Some(code) => print_text(&format!("{code}\n\n{address}\n")),
        None => print_text(&format!("{address}\n")),
    }
}

fn balance(global: &Global) -> Result<(), WalletError> {
    let mut wallet = open(global)?;
    let node = connect(global, wallet.network())?;
    let balance = look(global, &mut wallet, &node)?.balance()?;
    if global.json {
        return print_json(&json!({
            "confirmed": balance.confirmed, "pending": balance.pending, "immature": balance.immature,
            "waiting": balance.waiting
        }));
    }
    let ticker = &wallet.network().ticker;
    let mut rows = vec![
        ("confirmed", format!("{} {ticker}", balance.confirmed)),
        ("pending", format!("{} {ticker}", balance.pending)),
        ("immature", format!("{} {ticker}", balance.immature)),
    ];
    if !balance.waiting.is_zero() {
        rows.push(("waiting", format!("{} {ticker}, change of payments that the node does not take", balance.waiting)));
    }
    print_text(&output::pairs(&rows))
}

fn list(global: &Global, limit: Option<usize>) -> Result<(), WalletError> {
    let mut wallet = open(global)?;
    let node = connect(global, wallet.network())?;
    let view = look(global, &mut wallet, &node)?;
    let entries = history::entries(&wallet, &node, &view)?;
    let skip = limit.map_or(0, |limit| entries.len().saturating_sub(limit));
    let entries = &entries[skip..];
    if global.json {
        return print_json(&history::to_json(entries));
    }
    if entries.is_empty() {
        return print_text("No transactions yet.\n");
    }
    print_text(&history::to_table(entries))
}

fn pay(global: &Global, send: &Send) -> Result<(), WalletError> {
    let mut wallet = open(global)?;
    let network = wallet.network().clone();
    let address = spend::parse_address(&send.address, &network)?;
    let address_text = address.to_text(&network.prefix);
    let amount = spend::parse_amount(&send.amount, &network)?;
    let fee_max: Amount =
        send.max_fee.parse().map_err(|error| WalletError::Usage(format!("--max-fee {:?}: {error}", send.max_fee)))?;
    let fee = send.fee_rate.map_or(Fee::Target(send.target), Fee::Rate);
    let id = send.send_id.as_deref().map(spend::parse_send_id).transpose()?;
    let may_ask = output::is_interactive() && !global.json;
    if !may_ask && !global.yes && !send.dry_run {
        return Err(needs_yes("nobody is there to confirm the payment"));
    }
    let node = connect(global, &network)?;
    let view = look(global, &mut wallet, &node)?;
    if let Some(id) = id
        && let Some(payment) = spend::repeated(&wallet, &view, id, &address_text, amount)?
    {
        let (txid, fee) = (payment.txid, payment.fee);
        if global.json {
            return print_json(&json!({ "txid": txid, "fee": fee, "repeated": true }));
        }
        return print_text(&format!("This payment was made before, as transaction {txid}. Nothing more was paid.\n"));
    }
    let order = Order { address, amount, fee, fee_max };
    let draft = spend::draft(&wallet, &node, &view, &order, &mut OsEntropy)?;
    let (txid, fee) = (draft.ids.txid, draft.plan.fee);
    if send.dry_run {
        if let Err(reason) = node.would_take(&draft.hex())? {
            return Err(WalletError::Rejected(reason));
        }
        if global.json {
            return print_json(&json!({ "txid": txid, "fee": fee, "dry_run": true, "transaction": draft.hex() }));
        }
        print_text(&summary(&wallet, &view, &draft, &address_text))?;
        return print_text("Dry run: nothing was sent.\n");
    }
    if !global.json {
        output::note(&summary(&wallet, &view, &draft, &address_text));
    }
    if !global.yes {
        let answer = ask_line("Send? [y/N] ")?;
        if !matches!(answer.as_str(), "y" | "Y" | "yes" | "Yes" | "YES") {
            return Err(WalletError::Cancelled);
        }
    }
    spend::send(&mut wallet, &node, &view, &draft, &address_text, id)?;
    if global.json {
        return print_json(&json!({ "txid": txid, "fee": fee }));
    }
    print_text(&format!("Sent as transaction {txid}.\n"))
}

/// What a person should see before saying yes.
fn summary(wallet: &Wallet, view: &sync::View, draft: &Draft, address: &str) -> String {
    let network = wallet.network();
    let ticker = &network.ticker;
    let plan = &draft.plan;
    let (amount, fee) = (plan.payment.amount, plan.fee);
    let total = amount.checked_add(fee).unwrap_or(amount);
    let own = if view.book.path(&plan.payment.address).is_some() { "  (this wallet's own)" } else { "" };
    let spent = match plan.coins.len() {
        1 => "one coin".to_owned(),
        count => format!("{count} coins"),
    };
    let mut rows = vec![
        ("Network", format!("{} (genesis block {})", network.name, network.genesis_hash())),
        ("Pay", format!("{amount} {ticker}")),
        ("To", format!("{address}{own}")),
        ("Fee", format!("{fee} {ticker} for {} bytes that spend {spent}", draft.ids.size)),
        ("Together", format!("{total} {ticker}")),
    ];
    if let Some(change) = plan.change {
        rows.push(("Change", format!("{change} {ticker}, back to a fresh address of this wallet")));
    }
    output::pairs(&rows)
}

fn change_password(global: &Global, file: Option<PathBuf>, stdin: bool) -> Result<(), WalletError> {
    let mut wallet = open(global)?;
    let source = match file {
        Some(path) => Source::File(path),
        None if stdin => Source::Stdin,
        None => Source::Ask { variable: NEW_PASSWORD_VARIABLE, prompt: "New password: ", twice: true },
    };
    let password = secret::password(&source)?;
    wallet.change_password(password.as_bytes())?;
    if global.json {
        return print_json(&json!({ "changed": true }));
    }
    print_text("The password was changed. Copies of the old file still open with the old one.\n")
}

fn completions(shell: clap_complete::Shell) -> Result<(), WalletError> {
    let mut command = <Arguments as clap::CommandFactory>::command();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "setara-wallet", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}

/// The wallet's money as the node shows it, and a warning if that is an old picture.
fn look(global: &Global, wallet: &mut Wallet, node: &Node) -> Result<sync::View, WalletError> {
    let view = sync::look(wallet, node)?;
    if let Some(message) = view.behind(wallet.network(), sync::now()) {
        output::warning(global.json, "node-behind", &message);
    }
    Ok(view)
}

fn open(global: &Global) -> Result<Wallet, WalletError> {
    let path = wallet_path(global)?;
    let source = password_source(global, "Password: ", false);
    Wallet::open(&path, |_: &Label| secret::password(&source))
}

fn password_source(global: &Global, prompt: &'static str, twice: bool) -> Source {
    match &global.password_file {
        Some(path) => Source::File(path.clone()),
        None if global.password_stdin => Source::Stdin,
        None => Source::Ask { variable: PASSWORD_VARIABLE, prompt, twice },
    }
}

fn new_password_source(global: &Global) -> Source {
    password_source(global, "Password for the new wallet: ", true)
}

fn words_source(file: Option<PathBuf>, stdin: bool) -> Source {
    match file {
        Some(path) => Source::File(path),
        None if stdin => Source::Stdin,
        None => Source::Ask { variable: "", prompt: "The 24 words (not shown): ", twice: false },
    }
}

fn choose_network(global: &Global, choose: &ChooseNetwork) -> Result<Network, WalletError> {
    if let Some(name) = &choose.network {
        return network::named(name);
    }
    if let Some(path) = &choose.genesis {
        return network::from_file(path);
    }
    let (name, genesis) = connect(global, &Network::main())?.announced_network()?;
    network::announced(&name, genesis)
}

/// The node to talk to; defaults are those of a node of this network on this machine.
fn connect(global: &Global, network: &Network) -> Result<Node, WalletError> {
    let url = global.rpc.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", network.rpc_port()));
    let cookie = match &global.cookie {
        Some(path) => path.clone(),
        None => home()?.join(&network.name).join(".cookie"),
    };
    Node::new(&url, cookie)
}

fn wallet_path(global: &Global) -> Result<PathBuf, WalletError> {
    match &global.wallet {
        Some(path) => Ok(path.clone()),
        None => Ok(home()?.join("wallet")),
    }
}

fn home() -> Result<PathBuf, WalletError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(|home| Path::new(&home).join(".setara"))
        .ok_or_else(|| WalletError::Usage("HOME is not set: name the files with --wallet and --cookie".into()))
}

fn needs_yes(why: &str) -> WalletError {
    WalletError::Usage(format!("without a terminal --yes is needed: {why}"))
}

fn ask_line(question: &str) -> Result<String, WalletError> {
    let line = output::ask_line(question).map_err(|error| WalletError::io("read", Path::new("the terminal"), error))?;
    line.ok_or(WalletError::Cancelled)
}

fn print_json(value: &Value) -> Result<(), WalletError> {
    output::json(value).map_err(stdout_failed)
}

fn print_text(text: &str) -> Result<(), WalletError> {
    output::text(text).map_err(stdout_failed)
}

fn stdout_failed(error: io::Error) -> WalletError {
    WalletError::io("write to", Path::new("standard output"), error)
}
