//! The command line. Flags that concern every command stand before or after it; secrets never stand on it at all.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Setara wallet: keys on this machine, the chain through any node's JSON-RPC.
#[derive(Debug, Parser)]
#[command(name = "setara-wallet", version, about, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 done, 1 failed, 2 usage, 3 node not reachable, 4 refused by the node, 5 not enough money,
6 wrong password or wallet in use, 7 no such wallet, 130 interrupted.
The password comes from --password-file, --password-stdin, SETARA_WALLET_PASSWORD (other processes of
the same user can read it), or a prompt; it is never an argument.";

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The wallet file [default: ~/.setara/wallet]
    #[arg(long, value_name = "FILE", global = true, env = "SETARA_WALLET")]
    pub wallet: Option<PathBuf>,
    /// The node [default: this machine, at the port of the wallet's network]
    #[arg(long, value_name = "http://HOST:PORT", global = true, env = "SETARA_RPC")]
    pub rpc: Option<String>,
    /// File with the node's credentials, USER:PASSWORD [default: ~/.setara/NETWORK/.cookie]
    #[arg(long, value_name = "FILE", global = true, env = "SETARA_COOKIE")]
    pub cookie: Option<PathBuf>,
    /// Read the password from the first line of a file
    #[arg(long, value_name = "FILE", global = true)]
    pub password_file: Option<PathBuf>,
    /// Read the password from the first line of standard input
    #[arg(long, global = true)]
    pub password_stdin: bool,
    /// Print one JSON object on standard output; errors become JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not ask for confirmation
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a new wallet and show its 24 words once
    Create {
        /// The network.
        #[command(flatten)]
        network: ChooseNetwork,
    },
    /// Make a wallet from 24 words and find its money
    Restore {
        /// The network.
        #[command(flatten)]
        network: ChooseNetwork,
        /// Read the words from a file
        #[arg(long, value_name = "FILE", conflicts_with = "mnemonic_stdin")]
        mnemonic_file: Option<PathBuf>,
        /// Read the words from standard input, after the password if that is there too
        #[arg(long)]
        mnemonic_stdin: bool,
        /// Stop looking after this many unused addresses in a row
        #[arg(long, value_name = "N", default_value_t = crate::account::GAP_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::account::GAP_MAX)))]
        gap: u32,
    },
    /// Show a fresh receiving address
    Address,
    /// Show a fresh receiving address as text and QR code
    Receive,
    /// Show the money: confirmed, pending, immature
    Balance,
    /// Pay
    Send(Send),
    /// List the wallet's transactions, oldest first
    History {
        /// Only the newest N
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Encrypt the wallet file with another password
    ChangePassword {
        /// Read the new password from the first line of a file
        #[arg(long, value_name = "FILE", conflicts_with = "new_password_stdin")]
        new_password_file: Option<PathBuf>,
        /// Read the new password from the next line of standard input
        #[arg(long)]
        new_password_stdin: bool,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Which network a new wallet belongs to; without either flag, the node's.
#[derive(Debug, Clone, Args)]
pub struct ChooseNetwork {
    /// A built-in network: main, test or dev [default: what the node says, if it is one of these]
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// The genesis file of a network of your own
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    pub genesis: Option<PathBuf>,
}

/// A payment.
#[derive(Debug, Clone, Args)]
pub struct Send {
    /// Who is paid
    pub address: String,
    /// How much, in coins (such as 1.5), or `all`
    #[arg(allow_negative_numbers = true)]
    pub amount: String,
    /// Pay this fee rate, in sen per 1,000 bytes
    #[arg(long, value_name = "SEN", conflicts_with = "target")]
    pub fee_rate: Option<u64>,
    /// Pay what the node estimates for confirmation within this many blocks
    #[arg(long, value_name = "BLOCKS", default_value_t = crate::spend::TARGET_BLOCKS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=1008))]
    pub target: u32,
    /// Refuse to pay a fee above this, in coins
    #[arg(long, value_name = "COINS", default_value = crate::spend::FEE_MAX_DEFAULT_TEXT)]
    pub max_fee: String,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Name this payment: repeating the command with the same name never pays twice
    #[arg(long, value_name = "NAME")]
    pub send_id: Option<String>,
}

impl Arguments {
    /// Whether JSON was asked for, even if the rest of the command line makes no sense.
    pub fn wants_json(arguments: &[std::ffi::OsString]) -> bool {
        arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "setara-wallet --wallet w --rpc http://h:1 --cookie c --password-file p --json --yes send a 1",
            "setara-wallet send a 1 --wallet w --rpc http://h:1 --cookie c --password-file p --json --yes",
            "setara-wallet --wallet w --json send --rpc http://h:1 a --yes 1 --password-file p --cookie c",
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            let global = arguments.global;
            assert_eq!(global.wallet, Some(PathBuf::from("w")), "{line}");
            assert_eq!(global.rpc.as_deref(), Some("http://h:1"));
            assert_eq!(global.cookie, Some(PathBuf::from("c")));
            assert_eq!(global.password_file, Some(PathBuf::from("p")));
            assert!(global.json && global.yes);
        }
    }

    /// WK4. There is no way to write a password or words into the command line.
    #[test]
    fn no_argument_takes_a_secret() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str().to_owned();
                if name.contains("password") || name.contains("mnemonic") {
                    let takes_value = argument.get_action().takes_values();
                    assert!(!takes_value || name.ends_with("_file"), "{name}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn negative_amounts_reach_our_own_message() {
        let arguments = Arguments::try_parse_from(["setara-wallet", "send", "a", "-1"]).unwrap();
        assert!(matches!(arguments.command, Command::Send(Send { amount, .. }) if amount == "-1"));
    }
}
