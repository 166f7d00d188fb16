//! Who beats whom, and what is refused, by which name.

use super::*;
use setara_core::hash::sha256;
use std::fs;
use std::path::Path;

struct Case {
    home: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Case {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment =
            vec![("HOME".to_owned(), home.path().to_str().unwrap().to_owned()), ("PATH".into(), "/".into())];
        Self { home, environment }
    }

    fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, text: &str) -> Self {
        fs::create_dir_all(self.home.path().join(".setara")).unwrap();
        fs::write(self.home.path().join(".setara").join(FILE_NAME), text).unwrap();
        self
    }

    fn request(&self, arguments: &str) -> Result<Request, RequestError> {
        let arguments = std::iter::once("setara-node").chain(arguments.split_whitespace());
        request(arguments.map(OsString::from), self.environment.iter().cloned())
    }

    fn run(&self, arguments: &str) -> Config {
        match self.request(arguments) {
            Ok(Request::Run(config)) => *config,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    fn print(&self, arguments: &str) -> String {
        match self.request(arguments) {
            Ok(Request::Print(text)) => text,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    fn error(&self, arguments: &str) -> String {
        self.request(arguments).err().unwrap_or_else(|| panic!("{arguments} is accepted")).to_string()
    }
}

/// A table for a network that is none is reported, with the name that was probably meant, and never refused.
#[test]
fn a_table_for_no_network_is_reported() {
    let case = Case::new().file("[networks.dve]\nrpc-threads = 3\n[networks.test]\nrpc-threads = 4");
    for arguments in ["--network dev", "--network main", "--network test"] {
        let config = case.run(arguments);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        let warning = &config.warnings[0];
        assert!(warning.contains("[networks.dve]") && warning.contains("did you mean `dev`?"), "{warning}");
    }
    assert_eq!(case.run("--network dev").rpc.threads, 16);
    assert!(case.print("config --network dev").contains("# Warning: "));
    // The network of a genesis file is known by the name in it.
    let genesis = case.home.path().join("dve.json");
    let mut parameters = setara_core::network::Parameters::from_json(&Network::dev().to_json()).unwrap();
    parameters.name = "dve".to_owned();
    let mut header = parameters.genesis_block().header;
    crate::testing::mine_header(&mut header);
    parameters.genesis_nonce = header.nonce;
    fs::write(&genesis, parameters.to_json()).unwrap();
    let config = case.run(&format!("--genesis {}", genesis.display()));
    assert_eq!((config.rpc.threads, config.warnings), (3, vec![]));
    assert!(Case::new().file("[networks.dev]\nrpc-threads = 3").run("").warnings.is_empty());
}

fn dev_address() -> String {
    Address::from_bytes(sha256(b"config")).to_text(&Network::dev().prefix)
}

#[test]
fn defaults_are_as_documented() {
    let case = Case::new();
    let config = case.run("");
    assert_eq!(config.network.name, "main");
    assert_eq!(config.data_dir, case.home.path().join(".setara"));
    assert_eq!(config.rpc.listen.to_string(), "127.0.0.1:19721");
    assert_eq!((config.rpc.threads, config.rpc.work_queue, config.rpc.max_connections), (16, 1024, 1000));
    assert_eq!(config.db_cache_bytes, 450 * 1024 * 1024);
    assert!(config.index && config.max_reorg.is_none() && config.log.file);
    assert_eq!(config.mempool.max_bytes, 300_000_000);
    assert_eq!(config.mempool.min_relay_fee, Amount::from_sen(1000));
    assert_eq!(config.mempool.expiry, Duration::from_secs(336 * 3600));
    assert_eq!((config.mining.mine, config.mining.threads, config.mining.address), (None, 1, None));
    assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Text, "info"));
    assert_eq!(case.run("--network dev").rpc.listen.port(), 19741);
    for option in OPTIONS {
        assert!(!option.help.is_empty() && !option.help.ends_with('.'), "{}", option.name);
    }
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let file = "db-cache = 100\nmax_mempool = \"50\"\nrpc-threads = 2\nno-index = true\n\
        [networks.dev]\nrpc-threads = 3\nmax-reorg = 7\n[networks.test]\nrpc-threads = 4\n";
    let case = Case::new().file(file).environment("SETARA_MAX_MEMPOOL", "60").environment("SETARA_NETWORK", "dev");
    let config = case.run("--db-cache 200");
    assert_eq!(config.db_cache_bytes, 200 << 20);
    assert_eq!(config.mempool.max_bytes, 60_000_000);
    assert_eq!(config.rpc.threads, 3, "a network's table beats the rest of the file");
    assert_eq!(config.max_reorg, Some(7));
    assert!(!config.index);
    assert_eq!(case.run("--network main").rpc.threads, 2);
    assert_eq!(case.run("--network test").rpc.threads, 4);
    let case = case.environment("SETARA_RPC_THREADS", "5").environment("SETARA_NO_INDEX", "0");
    assert_eq!((case.run("").rpc.threads, case.run("").index), (5, true));
    assert_eq!(case.run("--rpc-threads=6").rpc.threads, 6);
}

#[test]
fn the_file_is_found_where_it_is_said_to_be() {
    let case = Case::new().file("network = \"test\"");
    assert_eq!(case.run("").network.name, "test");
    let elsewhere = case.home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join(FILE_NAME), "network = \"dev\"\ndata-dir = \"~/moved\"").unwrap();
    let config = case.run(&format!("--data-dir {}", elsewhere.display()));
    assert_eq!((config.network.name.as_str(), &config.data_dir), ("dev", &elsewhere), "a flag beats the file");
    let config = case.run(&format!("--config {}", elsewhere.join(FILE_NAME).display()));
    assert_eq!(config.data_dir, case.home.path().join("moved"));
    let missing = case.error("--config /does/not/exist.toml");
    assert!(missing.starts_with("/does/not/exist.toml: "), "{missing}");
    let homeless = Case { environment: vec![], ..Case::new() };
    assert!(homeless.error("").contains("HOME"));
    assert_eq!(homeless.run("--data-dir /x").data_dir, Path::new("/x"));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    let error = Case::new().file("db-cahce = 5").error("");
    assert!(error.ends_with("setara.toml: unknown option `db-cahce`, did you mean `db-cache`?"), "{error}");
    let error = Case::new().file("[networks.test]\nmin_relay_fees = 5").error("");
    assert!(
        error.contains("[networks.test]: unknown option `min_relay_fees`, did you mean `min-relay-fee`?"),
        "{error}"
    );
    let error = Case::new().file("\"\\u001b[2J\" = 5").error("");
    assert!(error.ends_with("unknown option `\\u{1b}[2J`"), "{error}");
    let error = Case::new().file("config = \"x\"").error("");
    assert!(error.contains("unknown option `config`"), "{error}");
    let error = Case::new().environment("SETARA_RPC_LISTEM", "x").error("");
    assert_eq!(error, "environment: unknown option `SETARA_RPC_LISTEM`, did you mean `SETARA_RPC_LISTEN`?");
    assert!(Case::new().error("--db-cach 5").contains("--db-cache"));
    let error = Case::new().error("--network mian");
    assert_eq!(error, "--network: `mian` is not built in, did you mean `main`? (others: --genesis FILE)");
    let wallet = Case::new().environment("SETARA_WALLET_PASSWORD", "secret").environment("SETARA_RPC", "http://h:1");
    wallet.environment("SETARA_COOKIE", "file").run("");
}

#[test]
fn bad_values_are_refused_where_they_were_set() {
    let foreign = Address::from_bytes([1; 32]).to_text(&Network::main().prefix);
    let rows = [
        ("--db-cache 15", "--db-cache: expected a whole number from 16 to 16777216"),
        ("--db-cache -1", "unexpected argument"),
        ("--db-cache=-1", "--db-cache: expected a whole number"),
        ("--max-mempool 4", "--max-mempool: expected a whole number from 5"),
        ("--min-relay-fee 0.1", "--min-relay-fee: expected a whole number"),
        ("--mempool-expiry 0", "--mempool-expiry: expected"),
        ("--rpc-threads 0", "--rpc-threads: expected"),
        ("--rpc-work-queue 0", "--rpc-work-queue: expected"),
        ("--rpc-timeout 0", "--rpc-timeout: expected"),
        ("--rpc-max-connections 0", "--rpc-max-connections: expected"),
        ("--mine-threads 0", "--mine-threads: expected"),
        ("--max-reorg 0", "--max-reorg: expected"),
        ("--rpc-listen 19721", "--rpc-listen: expected IP:PORT"),
        ("--rpc-listen 0.0.0.0:1", "--rpc-listen: 0.0.0.0:1 is open to other machines"),
        ("--rpc-allow-ip 10.0.0.0/33", "--rpc-allow-ip: expected an IP address"),
        ("--rpcauth alice:abc", "--rpcauth: expected USER:SALT$HASH"),
        ("--rpc-host node:1", "--rpc-host: expected a host name"),
        ("--rpc-whitelist alice", "--rpc-whitelist: expected USER:METHOD"),
        ("--rpc-user alice", "--rpc-user: needs --rpc-password too"),
        ("--rpc-password x", "--rpc-password: needs --rpc-user too"),
        ("--rpc-user a:b --rpc-password x", "--rpc-user: expected a name without `:`"),
        ("--log-format xml", "--log-format: expected text or json"),
        ("--log-filter loud", "--log-filter: `loud` is no level"),
        ("--mine nonsense", "--mine: not an address: expected text like dset1q..."),
        ("--network dev --genesis x.json", "--network: a network is named or given by --genesis, not both"),
        ("--genesis /does/not/exist.json", "--genesis: /does/not/exist.json: No such file"),
    ];
    for (arguments, expected) in rows {
        let arguments =
            if arguments.contains("--genesis") { arguments.to_owned() } else { format!("--network dev {arguments}") };
        let error = Case::new().error(&arguments);
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    let error = Case::new().error(&format!("--network dev --mine {foreign}"));
    assert!(error.contains("--mine: an address of another network: it starts with set1"), "{error}");
    let error = Case::new().environment("SETARA_DB_CACHE", "x").error("");
    assert!(error.starts_with("SETARA_DB_CACHE: expected a whole number"), "{error}");
    let error = Case::new().environment("SETARA_NO_INDEX", "maybe").error("");
    assert_eq!(error, "SETARA_NO_INDEX: expected true or false");
    for (file, expected) in [
        ("db-cache = 1.5", "db-cache: expected a text or a number"),
        ("no-index = 1", "no-index: expected true or false"),
        ("rpcauth = [5.5]", "rpcauth: expected a list of texts"),
        ("networks = 5", "networks: expected tables"),
        ("[networks]\ndev = 5", "networks.dev: expected a table"),
        ("[networks.dev]\ndata-dir = \"x\"", "networks.dev.data-dir: cannot be set for one network"),
        ("db-cache = ", "TOML parse error"),
        ("db-cache = 20\ndb-cache = 30", "duplicate key"),
    ] {
        let error = Case::new().file(file).error("");
        assert!(error.contains(expected) && error.contains("setara.toml: "), "{file}: {error}");
    }
}

#[test]
fn listening_beyond_loopback_needs_an_allow_list() {
    let config = Case::new().run("--rpc-listen 0.0.0.0:0 --rpc-allow-ip 10.0.0.0/8 --rpc-allow-ip fd00::/8");
    let allows = |address: &str| config.rpc.allows(address.parse().unwrap());
    assert!(
        allows("127.0.0.1") && allows("::1") && allows("::ffff:127.0.0.1") && allows("10.9.8.7") && allows("fd12::1")
    );
    assert!(!allows("192.168.0.1") && !allows("fe80::1"));
}

#[test]
fn lists_come_from_every_source() {
    let hash = "ab".repeat(32);
    let case = Case::new().environment("SETARA_RPCAUTH", &format!("a:1${hash};b:2${hash}"));
    let users: Vec<String> = case.run("").rpc.auth.into_iter().map(|auth| auth.user).collect();
    assert_eq!(users, ["a", "b"]);
    let case = Case::new().file(&format!("rpcauth = [\"c:1${hash}\", \"d:2${hash}\"]\nrpc-whitelist = \"c:help\""));
    assert_eq!((case.run("").rpc.auth.len(), case.run("").rpc.whitelist.len()), (2, 1));
    assert_eq!(case.run(&format!("--rpcauth e:1${hash}")).rpc.auth.len(), 1, "a stronger source replaces the list");
}

#[test]
fn a_port_is_mapped_only_where_that_can_help_and_gives_nothing_away() {
    let case = Case::new();
    assert!(!case.run("").peers.map_port, "off unless asked for");
    for on in ["--map-port", "--map-port --p2p-listen 192.168.1.2:0", "--map-port --p2p-listen [::]:1"] {
        assert!(case.run(on).peers.map_port, "{on}");
    }
    let rows = [
        ("--proxy 127.0.0.1:9050", "--map-port: contradicts --proxy"),
        ("--no-listen", "--map-port: means nothing beside --no-listen"),
        ("--network dev", "--map-port: no router reaches 127.0.0.1"),
        ("--p2p-listen [2001:db8::1]:1", "--map-port: routers forward IPv4 alone"),
    ];
    for (arguments, expected) in rows {
        let error = case.error(&format!("--map-port {arguments}"));
        assert!(error.starts_with(expected), "{error}");
        assert!(!Case::new().environment("SETARA_MAP_PORT", "0").run(arguments).peers.map_port, "{arguments}");
    }
}

#[test]
fn mining_pays_templates_to_the_same_address_unless_told_otherwise() {
    let (one, other) = (dev_address(), Address::ZERO.to_text(&Network::dev().prefix));
    let config = Case::new().run(&format!("--network dev --mine {one} --mine-threads 2"));
    assert_eq!(config.mining.mine, config.mining.address);
    assert_eq!(config.mining.threads, 2);
    let config = Case::new().run(&format!("--network dev --mine {one} --mining-address {other}"));
    assert_eq!(config.mining.address, Some(Address::ZERO));
}

#[test]
fn effective_values_are_printed_with_their_sources_and_without_secrets() {
    let case = Case::new().file("network = \"dev\"\ndb-cache = 100").environment("SETARA_RPC_USER", "alice");
    let case = case.environment("SETARA_RPC_PASSWORD", "hunter2");
    let text = case.print("config --no-index --rpc-threads 4");
    let line =
        |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
    assert!(line("network = \"dev\"").ends_with("setara.toml"));
    assert!(line("db-cache = \"100\"").ends_with("setara.toml"));
    assert!(line("no-index = true").ends_with("# flag"));
    assert!(line("rpc-threads = \"4\"").ends_with("# flag"));
    assert!(line("rpc-user = \"alice\"").ends_with("# environment"));
    assert!(line("# max-mempool = 300").ends_with("# default"));
    assert!(text.contains("rpc-password = \"(hidden)\"") && !text.contains("hunter2"));
    assert!(!format!("{:?}", case.run("")).contains("hunter2"));
    // What is printed is a file that means the same.
    let again = Case::new().file(&text.lines().filter(|line| !line.contains("hidden")).collect::<Vec<_>>().join("\n"));
    let error = again.error("");
    assert!(error.contains("rpc-user: needs"), "{error}");
    let flags_before = case.print("--rpc-threads 4 config --no-index");
    assert_eq!(flags_before, text);
}

#[test]
fn genesis_files_are_run_and_subcommands_keep_to_themselves() {
    let case = Case::new();
    let path = case.home.path().join("mine.json");
    let new = format!("genesis new --name mine --prefix mine --spacing 2 --out {}", path.display());
    let Ok(Request::Genesis(command)) = case.request(&new) else { panic!("{new}") };
    let mut out = Vec::new();
    genesis::run(command, &crate::clock::ManualClock::new(1_800_000_000), &mut out).unwrap();
    let config = case.run(&format!("--genesis {}", path.display()));
    assert_eq!((config.network.name.as_str(), config.network.spacing), ("mine", 2));
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(&config.network.genesis_hash().to_string()), "{text}");
    // The stronger source's network holds.
    let case = case.environment("SETARA_NETWORK", "dev");
    assert_eq!(case.run(&format!("--genesis {}", path.display())).network.name, "mine");
    assert_eq!(case.run("").network.name, "dev");
    assert!(case.error("--network dev genesis show").contains("--network: means nothing before `genesis`"));
}

#[test]
fn calls_take_options_before_the_method_and_anything_after_it() {
    let case = Case::new();
    let Ok(Request::Call(config, call)) = case.request("--db-cache 100 call --network dev getblock abc -1 --x") else {
        panic!("not a call")
    };
    assert_eq!((config.network.name.as_str(), config.db_cache_bytes), ("dev", 100 << 20));
    assert_eq!((call.method.as_str(), call.params), ("getblock", vec!["abc".to_owned(), "-1".into(), "--x".into()]));
    assert!(case.error("call").contains("METHOD"));
}

#[test]
fn limits_on_disk_are_sizes_and_too_small_ones_are_explained() {
    let case = Case::new();
    let limits = |arguments: &str| case.run(arguments).prune;
    assert_eq!(limits(""), PruneLimits::default());
    assert!(!limits("--prune 0").is_on() && !limits("").is_automatic());
    let manual = limits("--prune manual");
    assert!(manual.is_on() && !manual.is_automatic() && manual.target().is_none());
    let both = limits("--prune 2g --max-disk 20g");
    assert!(both.is_automatic());
    assert_eq!((both.target(), both.disk), (Some(2_000_000_000), Some(20_000_000_000)));
    assert!(limits("--prune 288m").is_on(), "288 blocks of a megabyte");
    let snapshot = |arguments: &str| case.run(arguments).snapshot;
    assert_eq!(snapshot(""), SnapshotConfig { fetch: false, serve: true });
    let both = snapshot("--snapshot --prune manual --no-index --no-snapshot-serving");
    assert_eq!(both, SnapshotConfig { fetch: true, serve: false });
    for (arguments, expected) in [
        ("--prune 287m", "--prune: at least 275 M: the newest 288 blocks always stay, and each may have 1000000 bytes"),
        ("--network dev --prune 1000m", "each may have 4000000 bytes"),
        ("--max-disk 487m", "--max-disk: at least 466 M"),
        ("--prune much", "--prune: `manual`, or: expected a number of MiB"),
        ("--prune manual --max-disk 20G", "--max-disk: contradicts --prune manual"),
        ("--snapshot", "add --prune and --no-index"),
        ("--snapshot --no-index", "add --prune (such as"),
        ("--snapshot --prune 10G", "--snapshot: a chain that begins with a snapshot has no old blocks"),
    ] {
        let error = case.error(arguments);
        assert!(error.contains(expected), "{arguments}: {error}");
    }
}

#[test]
fn one_budget_is_shared_out_and_options_fix_their_part() {
    let case = Case::new();
    let config = case.run("--max-memory 1G");
    assert_eq!(config.shares.budget, Some(1 << 30));
    assert!(config.shares.total() <= 1 << 30 && config.mempool.max_bytes == config.shares.of(Part::Mempool));
    assert_eq!(config.peers.inbound_max as u64, config.shares.inbound());
    let fixed = case.run("--max-memory 1G --db-cache 64 --max-mempool 50 --max-inbound 7");
    assert_eq!((fixed.db_cache_bytes, fixed.mempool.max_bytes, fixed.peers.inbound_max), (64 << 20, 50_000_000, 7));
    // A chain that may begin with a snapshot has memory for a second one.
    let pruned = case.run("--max-memory 1G --prune 10G --no-index").shares;
    assert!(pruned.of(Part::History) > 0 && pruned.history().checked > 0 && pruned.total() <= 1 << 30);
    assert_eq!(config.shares.of(Part::History), 0);
    assert_eq!(case.run("--max-memory 0").shares.budget, None, "0 is no budget");
    let (shares, larger) = (config.shares, config.with_headers(500_000).unwrap().shares);
    assert!(
        larger.of(Part::Headers) > 0 && larger.of(Part::Coins) <= shares.of(Part::Coins) && larger.total() <= 1 << 30
    );
    for (arguments, expected) in [
        ("--max-memory 100m", "--max-memory: at least "),
        ("--max-memory 100m --network dev", "a block may have 4000000 bytes"),
        ("--max-memory 400m --db-cache 450", "what --db-cache, --max-mempool and --max-inbound ask for"),
        ("--max-memory much", "--max-memory: expected a number of MiB"),
    ] {
        let error = case.error(arguments);
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    let text = case.environment("SETARA_MAX_MEMORY", "2G").print("config --db-cache 100");
    assert!(
        text.contains("# max-mempool has its share of max-memory") && text.contains("db-cache = \"100\""),
        "{text}"
    );
}
