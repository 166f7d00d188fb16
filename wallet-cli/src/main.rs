//! `setara-wallet`: reads the command line, runs one command, reports errors and the exit status. Nothing else.

use clap::Parser;
use setara_wallet::args::Arguments;
use setara_wallet::error::WalletError;
use setara_wallet::{commands, output, secret};
use std::process::ExitCode;

fn main() -> ExitCode {
    secret::harden();
    restore_terminal_on_interrupt();
    let line: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let json = Arguments::wants_json(&line);
    let result = match Arguments::try_parse_from(&line) {
        Ok(arguments) => commands::run(arguments),
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) if !json => error.exit(),
        Err(error) => Err(WalletError::Usage(error.render().to_string().trim().to_owned())),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    if json {
        output::note(&format!("{}\n", error.to_json()));
    } else {
        output::note(&format!("setara-wallet: {error}\n"));
    }
    ExitCode::from(error.exit_code())
}

/// Ctrl-C ends the process with 130, and never leaves a terminal that shows nothing that is typed.
///
/// The wallet file needs no care: it is replaced in one step or not at all.
fn restore_terminal_on_interrupt() {
    let before = rustix::termios::tcgetattr(std::io::stdin()).ok();
    // Without a handler the default applies: the process ends just the same.
    let _ = ctrlc::set_handler(move || {
        if let Some(before) = &before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
        std::process::exit(130);
    });
}
