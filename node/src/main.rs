//! `setara-node`: reads what is asked for, does it, and turns errors into one line and an exit code.

use setara_node::clock::SystemClock;
use setara_node::config::{Request, RequestError, Upkeep, request};
use setara_node::{backup, call, console, genesis, invite, node, rebuild, seeder, verify};
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Exit code of a wrong command line or configuration.
const USAGE: u8 = 2;

/// How glibc is told how many arenas it may have; it reads that once, before a program's first line.
const ARENAS: &str = "MALLOC_ARENA_MAX";
/// One arena for each so many bytes of the budget: what is freed in one serves no other, and each may keep a hundred MB so.
const ARENA_BUDGET_BYTES: u64 = 512_000_000;

/// Starts this program again in its own place (the process stays the same), with few arenas. Whoever has set their number
/// has decided; other allocators do not look at it.
fn confine(budget: u64) {
    if std::env::var_os(ARENAS).is_some() {
        return;
    }
    let arenas = (budget / ARENA_BUDGET_BYTES).max(1).to_string();
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "setara-node".into());
    let again = |program| Command::new(program).arg0(name).args(arguments).env(ARENAS, arenas).exec();
    // Only a failure returns: then it runs as it is.
    let error = match std::env::current_exe() {
        Ok(program) => again(program),
        Err(error) => error,
    };
    let _ = writeln!(io::stderr(), "setara-node: the allocator is not confined, --max-memory may be exceeded: {error}");
}

fn main() -> ExitCode {
    // Variables that are no text cannot be ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let result: Result<(), Box<dyn Display>> = match request(std::env::args_os(), environment) {
        Err(RequestError::Usage(error)) => {
            // Also help and version, which are no errors.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
        Err(RequestError::Invite(error)) => {
            let _ = writeln!(io::stderr(), "setara-node: {error}");
            return ExitCode::FAILURE;
        }
        Err(RequestError::Config(error)) => {
            let _ = writeln!(io::stderr(), "setara-node: {error}");
            return ExitCode::from(USAGE);
        }
        Ok(Request::Run(config)) => {
            if let Some(budget) = config.shares.budget {
                confine(budget);
            }
            node::run(*config).map_err(|error| Box::new(error) as _)
        }
        Ok(Request::Seeder(config)) => seeder::run(*config).map_err(|error| Box::new(error) as _),
        Ok(Request::Print(text)) => console::stdout().write_all(text.as_bytes()).map_err(|error| Box::new(error) as _),
        Ok(Request::Call(config, call)) => {
            if let Err(error) = call::run(&config, &call, &mut console::stdout()) {
                let _ = writeln!(io::stderr(), "setara-node: {error}");
                return ExitCode::from(error.exit_code());
            }
            Ok(())
        }
        Ok(Request::Invite(config, address)) => match invite::invite(&config, address) {
            Ok(invite) => writeln!(console::stdout(), "{invite}").map_err(|error| Box::new(error) as _),
            Err(error) => Err(Box::new(error) as _),
        },
        Ok(Request::Upkeep(config, upkeep)) => {
            let out = &mut console::stdout();
            match upkeep {
                Upkeep::Backup(folder) => backup::run(&config, &folder, out).map_err(|error| Box::new(error) as _),
                Upkeep::Rebuild { keep } => rebuild::run(&config, keep, out).map_err(|error| Box::new(error) as _),
                Upkeep::Verify(range) => verify::run(&config, &range, out).map_err(|error| Box::new(error) as _),
                Upkeep::Restore(folder) => backup::restore(&config, &folder, out).map_err(|error| Box::new(error) as _),
            }
        }
        Ok(Request::Genesis(command)) => {
            genesis::run(command, &SystemClock::new(), &mut console::stdout()).map_err(|error| Box::new(error) as _)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "setara-node: {error}");
            ExitCode::FAILURE
        }
    }
}
