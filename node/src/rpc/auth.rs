//! Who may call what: the cookie, `rpcauth` lines, user and password, whitelists, and the addresses calls may come from.
//!
//! Secrets are compared in constant time and kept only as hashes where that is possible. A cookie is 32 random bytes a
//! start, in a file that only the owner can read, and disappears when the node stops.

use crate::config::{IpRange, RpcConfig, RpcWhitelist, UserPassword};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use setara_api::registry::{self, Group};
use sha2::Sha256;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// User name in the cookie: what Bitcoin's tools expect.
const COOKIE_USER: &str = "__cookie__";
/// The cookie is for whoever runs the node.
const COOKIE_MODE: u32 = 0o600;

/// A whitelist names something that does not exist: its user would be locked out, or let in, by a typing error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc-whitelist: no method or group {name:?}{}", suggestion.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
pub struct UnknownMethod {
    /// As given.
    pub name: String,
    /// The nearest method.
    pub suggestion: Option<&'static str>,
}

/// The cookie file of this run; gone when this is dropped.
#[derive(Debug)]
pub struct Cookie {
    path: PathBuf,
    content: String,
}

impl Cookie {
    /// Makes a new cookie and puts its file in place of any earlier one, all at once: a reader sees the old or the new.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        let content = format!("{COOKIE_USER}:{}", hex::encode(secret));
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        // Whatever stands there, a link too, is removed and not written through.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).map_err(std::io::Error::other)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(COOKIE_MODE)
            .custom_flags(no_follow)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        drop(file);
        std::fs::rename(&temporary, path)?;
        Ok(Self { path: path.to_owned(), content })
    }

    fn authorization(&self) -> Vec<u8> {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&self.content)).into_bytes()
    }
}

impl Drop for Cookie {
    /// Removes the file, unless another node has put its own there.
    fn drop(&mut self) {
        if std::fs::read(&self.path).is_ok_and(|content| content == self.content.as_bytes()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A check of one user's password that keeps no password.
struct User {
    name: String,
    salt: Vec<u8>,
    hash: [u8; 32],
    caller: Caller,
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Why the settings about access cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A whitelist is wrong.
    #[error(transparent)]
    Whitelist(#[from] UnknownMethod),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] std::io::Error),
}

/// Methods that one user may call.
pub type MethodSet = Arc<HashSet<&'static str>>;

/// The methods that a whitelist names, `@read` and the like standing for their groups.
fn methods_of(list: &RpcWhitelist) -> Result<HashSet<&'static str>, UnknownMethod> {
    let mut methods = HashSet::new();
    for name in &list.methods {
        let groups = [Group::Read, Group::Send, Group::Mine, Group::Control];
        if let Some(group) = groups.into_iter().find(|group| group.name() == name) {
            methods.extend(registry::methods().filter(|row| row.group == group).map(|row| row.name));
        } else if let Some(method) = registry::method(name) {
            methods.insert(method.name);
        } else {
            return Err(UnknownMethod { name: name.clone(), suggestion: registry::nearest(name) });
        }
    }
    Ok(methods)
}

/// Who is calling: proven by credentials.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's name; `__cookie__` for the cookie.
    pub user: Arc<str>,
    /// What this user may call; `None`: everything.
    pub allowed: Option<MethodSet>,
}

impl Caller {
    /// Whether this caller may call `method`.
    pub fn may_call(&self, method: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(method))
    }
}

/// Checks credentials and addresses.
pub struct Access {
    /// The whole Authorization header that the cookie makes.
    cookie: (Vec<u8>, Caller),
    users: Vec<User>,
    allowed_ips: Vec<IpRange>,
    host_names: Vec<String>,
}

impl Access {
    /// Puts the settings together with this run's cookie. As in Bitcoin Core, a whitelist for one user closes the door
    /// to those without unless the default says otherwise, and two for one user leave what is in both.
    pub fn new(config: &RpcConfig, cookie: &Cookie) -> Result<Self, AccessError> {
        let mut lists: HashMap<&str, HashSet<&'static str>> = HashMap::new();
        for list in &config.whitelist {
            let methods = methods_of(list)?;
            lists
                .entry(&list.user)
                .and_modify(|known| known.retain(|method| methods.contains(method)))
                .or_insert(methods);
        }
        let closed = config.whitelist_default.unwrap_or(!lists.is_empty());
        let caller = |name: &str| {
            let listed = lists.get(name).cloned().or_else(|| closed.then(HashSet::new));
            Caller { user: name.into(), allowed: listed.map(Arc::new) }
        };
        let mut users = Vec::new();
        for auth in &config.auth {
            let (name, salt) = (auth.user.clone(), auth.salt.clone().into_bytes());
            users.push(User { caller: caller(&name), name, salt, hash: auth.hash });
        }
        if let Some(UserPassword { user, password }) = &config.user {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(std::io::Error::other)?;
            let hash = hmac_sha256(&salt, password.as_bytes());
            users.push(User { caller: caller(user), name: user.clone(), salt: salt.to_vec(), hash });
        }
        Ok(Self {
            cookie: (cookie.authorization(), caller(COOKIE_USER)),
            users,
            allowed_ips: config.allow_ip.clone(),
            host_names: config.host.iter().map(|name| name.0.clone()).collect(),
        })
    }

    /// Whether a connection may come from `address`.
    pub fn allows_ip(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.allowed_ips.iter().any(|range| range.contains(address))
    }

    /// Whether a `Host` header names this node. Any IP address does: a page that rebinds a name to this machine's
    /// address still sends the name.
    pub fn allows_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.host_names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Who shows this Authorization header; `None` if nobody known. The time taken depends neither on how much of a
    /// secret matches nor on which user does.
    pub fn authenticate(&self, authorization: &[u8]) -> Option<Caller> {
        let (cookie, cookie_caller) = &self.cookie;
        if bool::from(cookie.ct_eq(authorization)) {
            return Some(cookie_caller.clone());
        }
        let text = std::str::from_utf8(authorization).ok()?;
        let (scheme, encoded) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let split = decoded.iter().position(|byte| *byte == b':')?;
        let (name, password) = decoded.split_at_checked(split)?;
        let password = password.get(1..)?;
        // The cookie in another spelling of the header.
        let canonical = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&decoded)).into_bytes();
        if bool::from(cookie.ct_eq(&canonical)) {
            return Some(cookie_caller.clone());
        }
        let mut found = None;
        for user in &self.users {
            let hash = hmac_sha256(&user.salt, password);
            let matches: Choice = same_text(user.name.as_bytes(), name) & hash.ct_eq(&user.hash);
            if bool::from(matches) {
                found = Some(&user.caller);
            }
        }
        found.cloned()
    }
}

/// Equality whose time depends on neither text's content, nor on where their lengths differ.
fn same_text(one: &[u8], other: &[u8]) -> Choice {
    setara_core::hash::sha256(one).ct_eq(&setara_core::hash::sha256(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RpcConfig;
    use std::os::unix::fs::PermissionsExt;

    fn header(credentials: &str) -> Vec<u8> {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials)).into_bytes()
    }

    fn cookie() -> Cookie {
        Cookie::create(&tempfile::tempdir().unwrap().path().join(".cookie")).unwrap()
    }

    fn config(change: impl FnOnce(&mut RpcConfig)) -> RpcConfig {
        let mut config = RpcConfig::loopback();
        change(&mut config);
        config
    }

    /// `rpcauth.py alice secret` with the salt fixed; the hash by Python's hmac module.
    const ALICE: &str = "alice:0123456789abcdef0123456789abcdef$\
                         0ad814968caefdecab8a6c0c55414688fdcad02f100ee7ac5def2352aaff36e5";

    /// RW2.
    #[test]
    fn cookie_is_private_new_each_time_and_never_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".cookie");
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        for link in [path.clone(), directory.path().join(".cookie.tmp")] {
            std::os::unix::fs::symlink(&victim, link).unwrap();
        }
        let first = Cookie::create(&path).unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        let content = std::fs::read_to_string(&path).unwrap();
        assert_eq!(content.len(), 75);
        assert!(content.starts_with("__cookie__:"));

        let second = Cookie::create(&path).unwrap();
        assert_ne!(first.content, second.content);
        // A node that stops late leaves its successor's cookie alone.
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    /// RW2.
    #[test]
    fn credentials_are_checked_whole() {
        let cookie = cookie();
        let password = |name: &str, password: &str| UserPassword { user: name.into(), password: password.into() };
        let config = config(|config| {
            config.auth = vec![ALICE.parse().unwrap()];
            config.user = Some(password("bob", "pass:word"));
        });
        let access = Access::new(&config, &cookie).unwrap();
        let who = |header: &[u8]| access.authenticate(header).map(|caller| caller.user.to_string());
        assert_eq!(who(&header(&cookie.content)).as_deref(), Some("__cookie__"));
        assert_eq!(who(&header("alice:secret")).as_deref(), Some("alice"));
        assert_eq!(who(&header("bob:pass:word")).as_deref(), Some("bob"));
        for credentials in [&cookie.content, "bob:pass:word"] {
            let lower = String::from_utf8(header(credentials)).unwrap().replace("Basic", "basic");
            assert!(who(lower.as_bytes()).is_some());
        }
        let wrong = ["bob:pass", "bob:", "Bob:pass:word", "alice:Secret", "carol:", "__cookie__:", "alice", ":", ""];
        for credentials in wrong {
            assert_eq!(who(&header(credentials)), None, "{credentials}");
        }
        for raw in [&b"Basic"[..], b"", b"Bearer x", b"Basic \xff", b"Basic !!!", b"Basic "] {
            assert_eq!(who(raw), None);
        }
    }

    /// RW8.
    #[test]
    fn whitelists_intersect_and_close_the_default() {
        let listed = |lists: &[&str]| {
            let config = config(|config| {
                config.auth = vec![ALICE.parse().unwrap(), ALICE.replace("alice", "bob").parse().unwrap()];
                config.whitelist = lists.iter().map(|list| list.parse().unwrap()).collect();
            });
            Access::new(&config, &cookie())
        };
        let access = listed(&["alice:@read,stop", "alice:getblock, stop"]).unwrap();
        let alice = access.authenticate(&header("alice:secret")).unwrap();
        assert!(alice.may_call("getblock") && alice.may_call("stop"));
        assert!(!alice.may_call("getblockcount") && !alice.may_call("no such method"));
        assert!(!access.authenticate(&header("bob:secret")).unwrap().may_call("getblock"));
        assert!(listed(&[]).unwrap().authenticate(&header("bob:secret")).unwrap().may_call("stop"));

        // The default can be said: open beside a whitelist, closed without one.
        let with_default = |default, lists: &[&str], user: &str| {
            let config = config(|config| {
                config.auth = vec![ALICE.parse().unwrap(), ALICE.replace("alice", "bob").parse().unwrap()];
                config.whitelist = lists.iter().map(|list| list.parse().unwrap()).collect();
                config.whitelist_default = Some(default);
            });
            let caller = Access::new(&config, &cookie()).unwrap().authenticate(&header(&format!("{user}:secret")));
            caller.unwrap().may_call("stop")
        };
        assert!(with_default(false, &["alice:getblock"], "bob"), "no list of his own: everything");
        assert!(!with_default(false, &["alice:getblock"], "alice"));
        assert!(!with_default(true, &["alice:getblock"], "bob"));
        assert!(!with_default(true, &[], "bob") && !with_default(true, &[], "alice"));
        assert!(with_default(true, &["bob:stop"], "bob"));

        let error = listed(&["alice:getblokcount"]).err().unwrap();
        assert!(error.to_string().contains("did you mean getblockcount?"), "{error}");
        let readers = listed(&["alice:@read"]).unwrap().authenticate(&header("alice:secret")).unwrap();
        for dangerous in [
            "stop",
            "invalidateblock",
            "setmocktime",
            "sendrawtransaction",
            "submitblock",
            "logging",
            "dumptxoutset",
            "loadtxoutset",
            "backupnode",
        ] {
            assert!(!readers.may_call(dangerous), "{dangerous}");
        }
    }

    /// RW1.
    #[test]
    fn only_this_node_is_a_host() {
        let access = Access::new(&config(|config| config.host = vec!["node.lan".parse().unwrap()]), &cookie()).unwrap();
        for host in ["127.0.0.1:19721", "127.0.0.1", "[::1]:19721", "localhost", "LOCALHOST:1", "node.lan:80"] {
            assert!(access.allows_host(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "x@localhost", "é"] {
            assert!(!access.allows_host(host), "{host}");
        }
    }

    /// RW3.
    #[test]
    fn only_loopback_is_let_in_unless_told_otherwise() {
        let allows = |ranges: &[&str], ip: &str| {
            let config = config(|config| config.allow_ip = ranges.iter().map(|range| range.parse().unwrap()).collect());
            Access::new(&config, &cookie()).unwrap().allows_ip(ip.parse().unwrap())
        };
        assert!(allows(&[], "127.0.0.1") && allows(&[], "::1") && allows(&[], "::ffff:127.0.0.1"));
        assert!(!allows(&[], "192.168.1.1"));
        assert!(allows(&["10.0.0.0/8"], "10.255.0.1") && !allows(&["10.0.0.0/8"], "11.0.0.1"));
    }
}
