//! Passwords and words: how they get in, and how they stay in this process.
//!
//! Never from the command line, which every user of the machine can read. In order: `--password-file`,
//! `--password-stdin`, the environment variable `SETARA_WALLET_PASSWORD` (readable by the same user's other
//! processes: a convenience for tests), a prompt on the terminal without echo.

use crate::error::WalletError;
use crate::output;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Environment variable with the password.
pub const PASSWORD_VARIABLE: &str = "SETARA_WALLET_PASSWORD";
/// Environment variable with the new password of `change-password`.
pub const NEW_PASSWORD_VARIABLE: &str = "SETARA_WALLET_NEW_PASSWORD";

/// Bytes of a password, or of words, in a file or on standard input.
const SECRET_BYTES_MAX: usize = 8_192;

/// Below this many characters a typed password draws a remark; the file may be stolen and guessed at leisure.
const PASSWORD_CHARS_ADVISED: usize = 10;

/// A password or words. Wiped when dropped; has neither `Debug` nor `Display`, so that it cannot slip into a message.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl core::ops::Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Keeps this process's memory from other eyes as far as the system allows: no core dump, no debugger.
///
/// Failures are ignored: an old or confined kernel may refuse, and the wallet works all the same. Memory is not
/// locked, so a secret may reach swap; `docs/wallet.md` says so.
pub fn harden() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The first line of a file; for words, all of it.
    File(PathBuf),
    /// The next line of standard input.
    Stdin,
    /// An environment variable, or the terminal if it is not set.
    Ask {
        /// The variable.
        variable: &'static str,
        /// The question.
        prompt: &'static str,
        /// Ask twice: the secret is new.
        twice: bool,
    },
}

/// A password. An empty one is refused: it would protect nothing and is usually an accident.
pub fn password(source: &Source) -> Result<Secret, WalletError> {
    let password = match source {
        Source::File(path) => first_line(&read_file(path)?),
        Source::Stdin => next_line(&mut io::stdin().lock())?,
        Source::Ask { variable, prompt, twice } => match from_environment(variable)? {
            Some(password) => password,
            None => ask_password(prompt, *twice)?,
        },
    };
    if password.is_empty() {
        return Err(WalletError::Usage("the password is empty".into()));
    }
    Ok(password)
}

/// The 24 words: a whole file, all the rest of standard input, or typed without echo.
pub fn words(source: &Source) -> Result<Secret, WalletError> {
    match source {
        Source::File(path) => read_file(path),
        Source::Stdin => read_bounded(&mut io::stdin().lock(), "standard input"),
        Source::Ask { prompt, .. } => ask(prompt),
    }
}

fn ask_password(prompt: &str, twice: bool) -> Result<Secret, WalletError> {
    // Over both questions: what is typed between them is a secret, too.
    let _hidden = Hidden::start();
    let password = ask(prompt)?;
    if twice {
        if *ask("The same password again: ")? != *password {
            return Err(WalletError::Usage("the two passwords differ; nothing was done".into()));
        }
        if password.chars().count() < PASSWORD_CHARS_ADVISED {
            output::note(
                "This password is short: whoever gets the file could guess it. `change-password` changes it.\n",
            );
        }
    }
    Ok(password)
}

/// The terminal without echo, from before the question is shown: `rpassword` asks first and hides then, and shows what a
/// fast typist or a program enters in between.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    /// `None` where there is no terminal: then nothing is shown either.
    fn start() -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &hidden).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

fn ask(prompt: &str) -> Result<Secret, WalletError> {
    let _hidden = Hidden::start();
    rpassword::prompt_password(prompt).map(Secret::new).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => WalletError::Interrupted,
        _ => WalletError::PasswordNeeded,
    })
}

fn from_environment(variable: &str) -> Result<Option<Secret>, WalletError> {
    match std::env::var(variable) {
        Ok(value) => Ok(Some(Secret::new(value))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(WalletError::Usage(format!("{variable} is not UTF-8"))),
    }
}

fn read_file(path: &Path) -> Result<Secret, WalletError> {
    let mut file = File::open(path).map_err(|error| WalletError::io("open", path, error))?;
    read_bounded(&mut file, &path.display().to_string())
}

fn read_bounded(reader: &mut impl Read, name: &str) -> Result<Secret, WalletError> {
    // The capacity is there from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    let read = reader.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| WalletError::io("read", Path::new(name), error))?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(WalletError::Usage(format!("{name} is too long to be a secret ({SECRET_BYTES_MAX} bytes)")));
    }
    to_text(&bytes)
}

/// One line, byte by byte: what follows stays for the next question.
fn next_line(reader: &mut impl Read) -> Result<Secret, WalletError> {
    let mut line = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX));
    let mut byte = [0];
    loop {
        let read =
            reader.read(&mut byte).map_err(|error| WalletError::io("read", Path::new("standard input"), error))?;
        if read == 0 || byte[0] == b'\n' {
            break;
        }
        if line.len() == SECRET_BYTES_MAX {
            return Err(WalletError::Usage("standard input is too long to be a password".into()));
        }
        line.push(byte[0]);
    }
    Ok(first_line(&to_text(&line)?))
}

fn to_text(bytes: &[u8]) -> Result<Secret, WalletError> {
    let text = std::str::from_utf8(bytes).map_err(|_| WalletError::Usage("a secret is not UTF-8 text".into()))?;
    Ok(Secret::new(text.to_owned()))
}

/// Without the line end that editors and `echo` add; other white space belongs to the password.
fn first_line(text: &str) -> Secret {
    let line = text.split('\n').next().unwrap_or_default();
    Secret::new(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_single_lines_and_keep_their_blanks() {
        let mut input = io::Cursor::new(b" first \r\nsecond\n\nlast");
        let lines: Vec<String> = (0..5).map(|_| next_line(&mut input).unwrap().to_string()).collect();
        assert_eq!(lines, [" first ", "second", "", "last", ""]);
    }

    #[test]
    fn files_give_their_first_line_and_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "rahasia\n").unwrap();
        let source = Source::File(path.clone());
        assert_eq!(&*password(&source).unwrap(), "rahasia");
        for (content, code) in [(vec![b'x'; SECRET_BYTES_MAX + 1], "usage"), (vec![0xff], "usage"), (vec![], "usage")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(password(&source).map(|_| ()).unwrap_err().code(), code);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(password(&source).map(|_| ()).unwrap_err().code(), "io");
    }
}
