//! The method registry: one row per method. It drives dispatch, argument checks, named parameters, `help`, OpenRPC,
//! `docs/rpc.md` and the tests that hold each result to its schema.
//!
//! Names, parameter order, aliases and result fields are Bitcoin Core's (Zebra's for addresses), so that existing
//! clients work; what differs is said in the row's `doc`. The rows stand in one file per category.

mod addresses;
mod blockchain;
mod chain_stats;
mod control;
mod mempool;
mod mining;
mod network;
pub mod schema;
mod transactions;

pub use schema::{Field, Kind};

/// Heading under which `help` lists a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// The chain and the coins.
    Blockchain,
    /// Unconfirmed transactions.
    Mempool,
    /// Building and decoding transactions.
    Rawtransactions,
    /// Making blocks.
    Mining,
    /// Other nodes.
    Network,
    /// Making blocks at will; only where difficulty is fixed.
    Generating,
    /// The address index.
    Addressindex,
    /// Small helpers.
    Util,
    /// The node itself.
    Control,
}

impl Category {
    /// Every category in the order of `help`.
    pub const ALL: [Self; 9] = [
        Self::Blockchain,
        Self::Mempool,
        Self::Rawtransactions,
        Self::Mining,
        Self::Network,
        Self::Generating,
        Self::Addressindex,
        Self::Util,
        Self::Control,
    ];

    /// As printed between `==`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Blockchain => "Blockchain",
            Self::Mempool => "Mempool",
            Self::Rawtransactions => "Rawtransactions",
            Self::Mining => "Mining",
            Self::Network => "Network",
            Self::Generating => "Generating",
            Self::Addressindex => "Addressindex",
            Self::Util => "Util",
            Self::Control => "Control",
        }
    }
}

/// What a method can do: the names that a whitelist may use instead of listing methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Reads public data.
    Read,
    /// Hands transactions to the network.
    Send,
    /// Makes or submits blocks.
    Mine,
    /// Changes or stops this node.
    Control,
}

impl Group {
    /// As written in a whitelist.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "@read",
            Self::Send => "@send",
            Self::Mine => "@mine",
            Self::Control => "@control",
        }
    }
}

/// Whether an argument must be given, and what stands in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Must be given.
    Required,
    /// May be left out; the text says what then happens.
    Optional(&'static str),
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Other names it goes by.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub kind: Kind,
    /// Whether it must be given.
    pub presence: Presence,
    /// What it means.
    pub doc: &'static str,
}

impl Param {
    /// Must be given.
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, aliases: &[], kind, presence: Presence::Required, doc }
    }

    /// May be left out; `default` is what then holds, in JSON or in words.
    pub const fn optional(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self { name, aliases: &[], kind, presence: Presence::Optional(default), doc }
    }

    /// Also known by these names.
    pub const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Whether `name` means this parameter.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// Whether it must be given.
    pub const fn is_required(&self) -> bool {
        matches!(self.presence, Presence::Required)
    }
}

/// A method.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Heading in `help`.
    pub category: Category,
    /// Whitelist group.
    pub group: Group,
    /// In order of position. Required ones come first.
    pub params: &'static [Param],
    /// Shape of the result.
    pub result: Kind,
    /// What it does: a first sentence, then details.
    pub doc: &'static str,
    /// Refused, by name, unless the network's difficulty is fixed.
    pub fixed_difficulty_only: bool,
}

impl Method {
    /// `name "required" ( optional )`, as Bitcoin Core prints it.
    pub fn usage(&self) -> String {
        let mut usage = self.name.to_owned();
        let mut open = false;
        for param in self.params {
            usage.push_str(if param.is_required() || open { " " } else { " ( " });
            open |= !param.is_required();
            usage.push_str(&param.kind.placeholder(param.name));
        }
        if open {
            usage.push_str(" )");
        }
        usage
    }

    /// The full help text: usage, meaning, arguments, result.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.usage(), self.doc);
        if self.fixed_difficulty_only {
            text.push_str("Only on networks whose difficulty is fixed.\n");
        }
        if !self.params.is_empty() {
            text.push_str("\nArguments:\n");
            for (position, param) in (1u32..).zip(self.params) {
                let presence = match param.presence {
                    Presence::Required => "required".to_owned(),
                    Presence::Optional("") => "optional".to_owned(),
                    Presence::Optional(default) => format!("optional, default={default}"),
                };
                let kind = param.kind.type_name();
                text.push_str(&format!("{position}. {}    ({kind}, {presence}) {}\n", param.name, param.doc));
                if !param.aliases.is_empty() {
                    text.push_str(&format!("     also named {}\n", param.aliases.join(", ")));
                }
                param.kind.describe_inside(&mut text, 5);
            }
        }
        text.push_str("\nResult:\n");
        self.result.describe(&mut text, 0);
        text
    }
}

/// Every method, by category.
pub fn methods() -> impl Iterator<Item = &'static Method> {
    [
        blockchain::METHODS,
        chain_stats::METHODS,
        mempool::METHODS,
        transactions::METHODS,
        mining::METHODS,
        network::METHODS,
        addresses::METHODS,
        control::METHODS,
    ]
    .into_iter()
    .flatten()
}

/// The method called `name`.
pub fn method(name: &str) -> Option<&'static Method> {
    methods().find(|method| method.name == name)
}

/// The known method whose name is nearest to a mistyped one; never one that changes or stops the node, which nobody
/// should call on a guess.
pub fn nearest(name: &str) -> Option<&'static str> {
    /// Typing errors forgiven: more, and the suggestion is noise. So it is if they are more than a third of what was typed.
    const EDITS_MAX: usize = 3;
    /// Longer names are nobody's typing error, and comparing them would cost their length.
    const NAME_CHARS_MAX: usize = 64;
    if name.len() > NAME_CHARS_MAX {
        return None;
    }
    let forgiven = EDITS_MAX.min(name.chars().count() / 3);
    methods()
        .filter(|method| method.group != Group::Control)
        .map(|method| (strsim::osa_distance(name, method.name), method.name))
        .min()
        .filter(|(edits, _)| *edits <= forgiven)
        .map(|(_, name)| name)
}

/// The list that `help` prints: usage lines under `== Category ==` headings.
pub fn overview(offered: impl Fn(&Method) -> bool) -> String {
    let mut text = String::new();
    for category in Category::ALL {
        let mut usages: Vec<String> =
            methods().filter(|method| method.category == category && offered(method)).map(Method::usage).collect();
        if usages.is_empty() {
            continue;
        }
        usages.sort();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("== {} ==\n{}\n", category.title(), usages.join("\n")));
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_well_formed() {
        let mut names = HashSet::new();
        for method in methods() {
            assert!(names.insert(method.name), "{} stands twice", method.name);
            assert!(!method.doc.is_empty(), "{}", method.name);
            let mut params = HashSet::from(["args"]);
            let mut optional = false;
            for param in method.params {
                for name in [param.name].iter().chain(param.aliases) {
                    assert!(params.insert(name), "{}: {name} means two things", method.name);
                }
                assert!(!(optional && param.is_required()), "{}: {} after an optional one", method.name, param.name);
                optional |= !param.is_required();
                assert!(!param.doc.is_empty(), "{}: {}", method.name, param.name);
            }
            assert!(method.help().contains("Result:"));
        }
    }

    /// The surface promised to users: a row may be added, none may vanish.
    #[test]
    fn no_promised_method_is_missing() {
        let promised = "getblockchaininfo getblockcount getbestblockhash getblockhash getblock getblockheader \
            getblockstats getchaintips getchaintxstats getdifficulty getdeploymentinfo getrawtransaction \
            sendrawtransaction testmempoolaccept decoderawtransaction createrawtransaction decodescript getrawmempool \
            getmempoolinfo getmempoolentry getmempoolancestors getmempooldescendants gettxout gettxoutsetinfo \
            gettxoutproof verifytxoutproof validateaddress getmininginfo getnetworkhashps getblocktemplate \
            submitblock estimatesmartfee invalidateblock reconsiderblock getaddressbalance getaddressutxos \
            getaddresstxids getaddressmempool getindexinfo getrpcinfo getmemoryinfo logging uptime help stop generatetoaddress \
            generateblock setmocktime rpc.discover";
        for name in promised.split_whitespace() {
            assert!(method(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_category_is_listed() {
        let text = overview(|_| true);
        for category in Category::ALL {
            assert!(text.contains(&format!("== {} ==\n", category.title())), "{category:?}");
        }
        assert!(!overview(|method| !method.fixed_difficulty_only).contains("generatetoaddress"));
        assert!(text.contains("getblock \"blockhash\" ( verbosity )"), "{text}");
    }

    #[test]
    fn a_typing_error_finds_its_method() {
        assert_eq!(nearest("getblokcount"), Some("getblockcount"));
        assert_eq!(nearest("getblockcout"), Some("getblockcount"));
        assert_eq!(nearest("hlp"), Some("help"));
        assert_eq!(nearest("sendmoneynow"), None);
        // A short name has little that can be mistyped: three of its letters are another word.
        for name in ["", "x", "no", "nope", "shop", "home", "time"] {
            assert_eq!(nearest(name), None, "{name}");
        }
        // Nothing that changes or stops a node is suggested, however near.
        for method in methods().filter(|method| method.group == Group::Control) {
            let mistyped = format!("{}x", method.name);
            let suggested = nearest(&mistyped).and_then(super::method);
            assert!(suggested.is_none_or(|method| method.group != Group::Control), "{mistyped}");
        }
        assert_eq!(nearest("stopp"), None);
        assert_eq!(nearest(&"g".repeat(1_000_000)), None);
    }
}
