//! A blocking JSON-RPC client for one node: cookie or password, a deadline for every call, bounded answers.
//!
//! It trusts nothing it reads: sizes, shapes and ids are checked, and a lying or broken server yields an error. It
//! speaks plain HTTP only (the node listens on loopback), follows no redirect and uses no proxy, so that credentials
//! go to the address given and nowhere else.

use crate::error::ErrorCode;
use crate::types;
use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use setara_core::hash::{BlockHash, TxId};
use setara_core::height::Height;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Default deadline of a call, from connecting to the answer's last byte: far above any answer but a long poll's.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Deadline of the TCP connection: the node is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer: the server's own limit and its envelope.
pub const RESPONSE_BYTES_MAX: u64 = (64 << 20) + 65_536;
/// Most bytes of a cookie file; a real one has 75.
const COOKIE_BYTES_MAX: u64 = 1024;
/// A pooled connection older than this is not used again: the server closes idle ones after 30 s.
const IDLE_AGE_MAX: Duration = Duration::from_secs(10);

/// How to prove to the node who is asking.
#[derive(Clone)]
pub enum Auth {
    /// The node's cookie file, read anew whenever the node refuses what was read before (it restarts with a new one).
    Cookie(PathBuf),
    /// User and password.
    UserPass(String, String),
    /// Nothing; a node that wants credentials will refuse.
    None,
}

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one this client can use.
    #[error("bad node address {url:?}: {reason}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No connection, or it broke or timed out before the answer was complete.
    #[error("cannot reach the node at {url}: {reason}")]
    Unreachable {
        /// The node's address.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// There is no cookie where a running node keeps one.
    #[error("no node runs here: {} does not exist, which a running node writes", path.display())]
    NoCookie {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The node refuses the credentials, or they cannot be read.
    #[error("{0}")]
    Auth(String),
    /// The credentials are right, or were not looked at: this caller may not do this.
    #[error("the node does not allow this to this caller (HTTP 403): see its --rpc-whitelist and --rpc-allow-ip")]
    Forbidden,
    /// The node answered this call with an error.
    #[error("{message} (code {code})")]
    Rpc {
        /// See [`ErrorCode`].
        code: i64,
        /// For people.
        message: String,
    },
    /// The node is too busy to take the call; nothing was executed.
    #[error("the node is too busy")]
    Busy,
    /// The answer is not what a node of this kind says.
    #[error("the node's answer makes no sense: {0}")]
    Malformed(String),
}

impl ClientError {
    /// Whether this is the node's answer with `code`.
    pub fn is_rpc(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Rpc { code: got, .. } if *got == code.0)
    }

    /// Whether asking again later may help: not running, unreachable, busy or still loading.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoCookie { .. } | Self::Busy) || self.is_rpc(ErrorCode::WARM_UP)
    }
}

/// A client of one node. Cheap to share by reference between threads.
pub struct Client {
    url: String,
    auth: Auth,
    agent: ureq::Agent,
    timeout: Duration,
    response_bytes_max: u64,
    next_id: AtomicU64,
    cookie: std::sync::Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    jsonrpc: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ReplyError>,
    id: Option<serde_json::Number>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: i64,
    message: String,
}

impl Client {
    /// A client of the node at `url`: `http://HOST:PORT` or `HOST:PORT`. Nothing is contacted yet.
    pub fn new(url: &str, auth: Auth) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::BadUrl { url: url.to_owned(), reason };
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(bad("only http:// is spoken; put a tunnel in front of a remote node")),
            Some(_) => return Err(bad("expected http://HOST:PORT")),
            None => url,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(bad("credentials do not belong in the address"));
        }
        let parsed: ureq::http::uri::Authority = authority.parse().map_err(|_| bad("expected http://HOST:PORT"))?;
        if parsed.host().is_empty() || parsed.port_u16().is_none_or(|port| port == 0) {
            return Err(bad("expected http://HOST:PORT"));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .no_delay(true)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_idle_age(IDLE_AGE_MAX)
            .user_agent(concat!("setara-api/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            url: format!("http://{authority}/"),
            auth,
            agent: ureq::Agent::new_with_config(config),
            timeout: TIMEOUT_DEFAULT,
            response_bytes_max: RESPONSE_BYTES_MAX,
            next_id: AtomicU64::new(0),
            cookie: std::sync::Mutex::new(None),
        })
    }

    /// With another deadline for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another bound on the bytes of an answer.
    #[must_use]
    pub fn with_response_limit(mut self, bytes: u64) -> Self {
        self.response_bytes_max = bytes;
        self
    }

    /// The node's address as it is contacted.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Calls `method`. `params` is an array (by position), an object (by name) or null.
    pub fn call(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.call_as(method, params)
    }

    /// Calls `method` and reads the result as a `T`.
    pub fn call_as<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = self.post(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let reply: Reply<'_> = serde_json::from_slice(&body).map_err(malformed)?;
        let result = read_reply(reply, id)?;
        serde_json::from_str(result).map_err(|error| ClientError::Malformed(format!("{method}: {error}")))
    }

    /// Makes several calls in one request; answers come in the order of the calls, each with its own outcome.
    pub fn batch(&self, calls: &[(&str, Value)]) -> Result<Vec<Result<Value, ClientError>>, ClientError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        let first = self.next_id.fetch_add(count, Ordering::Relaxed);
        let entries: Vec<Value> = calls
            .iter()
            .zip(first..)
            .map(|((method, params), id)| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .collect();
        let body = self.post(&Value::Array(entries))?;
        let replies: Vec<Reply<'_>> = match serde_json::from_slice(&body) {
            Ok(replies) => replies,
            // A refused batch (too long, say) is answered with one error.
            Err(error) => match serde_json::from_slice::<Reply<'_>>(&body) {
                Ok(Reply { error: Some(error), .. }) => return Err(rpc_error(error)),
                _ => return Err(malformed(error)),
            },
        };
        let mut outcomes: Vec<Option<Result<Value, ClientError>>> = Vec::new();
        outcomes.resize_with(calls.len(), || None);
        for reply in replies {
            let id = reply.id.as_ref().and_then(serde_json::Number::as_u64);
            let slot = id
                .and_then(|id| usize::try_from(id.checked_sub(first)?).ok())
                .and_then(|position| outcomes.get_mut(position))
                .ok_or_else(|| ClientError::Malformed("an answer to a question that was not asked".to_owned()))?;
            *slot = Some(match read_reply(reply, id.unwrap_or_default()) {
                Ok(result) => serde_json::from_str(result).map_err(malformed),
                Err(error) => Err(error),
            });
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(|| ClientError::Malformed("an answer is missing".to_owned())))
            .collect()
    }

    fn post(&self, request: &Value) -> Result<Vec<u8>, ClientError> {
        let request = serde_json::to_vec(request).map_err(malformed)?;
        let fresh = self.authorization(false)?;
        match self.post_once(&request, fresh.as_deref()) {
            // The node has restarted since the cookie was read: once more with the new one.
            Err(ClientError::Auth(_)) if matches!(self.auth, Auth::Cookie(_)) => {
                let again = self.authorization(true)?;
                self.post_once(&request, again.as_deref())
            }
            outcome => outcome,
        }
    }

    fn post_once(&self, request: &[u8], authorization: Option<&str>) -> Result<Vec<u8>, ClientError> {
        let unreachable =
            |error: ureq::Error| ClientError::Unreachable { url: self.url.clone(), reason: error.to_string() };
        let mut builder = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(authorization) = authorization {
            builder = builder.header("Authorization", authorization);
        }
        let mut response =
            builder.config().timeout_global(Some(self.timeout)).build().send(request).map_err(unreachable)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // One byte more than allowed tells an over-long answer from one that just fits.
        let limit = self.response_bytes_max.saturating_add(1);
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader().take(limit);
        reader.read_to_end(&mut body).map_err(|error| ClientError::Unreachable {
            url: self.url.clone(),
            reason: format!("the answer broke off: {error}"),
        })?;
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > self.response_bytes_max {
            return Err(ClientError::Malformed(format!("longer than {} bytes", self.response_bytes_max)));
        }
        match status {
            401 => Err(ClientError::Auth(
                "the node refuses the credentials (HTTP 401): wrong user, password or cookie".to_owned(),
            )),
            403 => Err(ClientError::Forbidden),
            503 => Err(ClientError::Busy),
            _ if body.is_empty() => Err(ClientError::Malformed(format!("an empty answer with HTTP status {status}"))),
            _ => Ok(body),
        }
    }

    /// The value of the Authorization header; `renew` reads the cookie file again.
    fn authorization(&self, renew: bool) -> Result<Option<String>, ClientError> {
        match &self.auth {
            Auth::None => Ok(None),
            Auth::UserPass(user, password) => Ok(Some(basic(&format!("{user}:{password}")))),
            Auth::Cookie(path) => {
                let mut kept = self.cookie.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if kept.is_none() || renew {
                    let unreadable = |error: std::io::Error| match error.kind() {
                        std::io::ErrorKind::NotFound => ClientError::NoCookie { path: path.clone() },
                        _ => ClientError::Auth(format!("cannot read the cookie {}: {error}", path.display())),
                    };
                    let file = std::fs::File::open(path).map_err(unreadable)?;
                    let mut cookie = String::new();
                    file.take(COOKIE_BYTES_MAX).read_to_string(&mut cookie).map_err(unreadable)?;
                    *kept = Some(basic(cookie.trim_end()));
                }
                Ok(kept.clone())
            }
        }
    }
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}

fn malformed(error: serde_json::Error) -> ClientError {
    ClientError::Malformed(error.to_string())
}

fn rpc_error(error: ReplyError) -> ClientError {
    ClientError::Rpc { code: error.code, message: error.message }
}

fn read_reply(reply: Reply<'_>, id: u64) -> Result<&str, ClientError> {
    if reply.jsonrpc.as_deref() != Some("2.0") {
        return Err(ClientError::Malformed("not JSON-RPC 2.0".to_owned()));
    }
    // A node that cannot read the request at all answers with a null id.
    let echoed = reply.id.as_ref().and_then(serde_json::Number::as_u64) == Some(id);
    match (reply.error, reply.result) {
        (Some(error), None) if echoed || reply.id.is_none() => Err(rpc_error(error)),
        (None, Some(result)) if echoed => Ok(result.get()),
        // serde reads an explicit `null` as an absent option.
        (None, None) if echoed => Ok("null"),
        _ => Err(ClientError::Malformed("neither a result nor an error for this question".to_owned())),
    }
}

/// The calls that a wallet makes.
impl Client {
    /// State of the chain.
    pub fn get_blockchain_info(&self) -> Result<types::BlockchainInfo, ClientError> {
        self.call_as("getblockchaininfo", json!([]))
    }

    /// Height of the tip.
    pub fn get_block_count(&self) -> Result<u32, ClientError> {
        self.call_as("getblockcount", json!([]))
    }

    /// The active chain's block at `height`.
    pub fn get_block_hash(&self, height: Height) -> Result<BlockHash, ClientError> {
        self.call_as("getblockhash", json!([height]))
    }

    /// A header with its place in the chain.
    pub fn get_block_header(&self, block: BlockHash) -> Result<types::BlockHeader, ClientError> {
        self.call_as("getblockheader", json!([block, true]))
    }

    /// The 80 bytes of a header as hex.
    pub fn get_block_header_hex(&self, block: BlockHash) -> Result<String, ClientError> {
        self.call_as("getblockheader", json!([block, false]))
    }

    /// Proof that these transactions are in `block`: hex of Bitcoin's `CMerkleBlock`, whose leaves here are wtxids.
    pub fn get_tx_out_proof(&self, txids: &[TxId], block: BlockHash) -> Result<String, ClientError> {
        self.call_as("gettxoutproof", json!([txids, block]))
    }

    /// Unspent confirmed outputs of these addresses, with the tip they are true at.
    pub fn get_address_utxos(&self, addresses: &[String]) -> Result<types::AddressUtxos, ClientError> {
        self.call_as("getaddressutxos", json!([{"addresses": addresses, "chainInfo": true}]))
    }

    /// Ids of confirmed transactions that pay to or spend from these addresses, in chain order, at heights from
    /// `start` to `end` inclusive.
    pub fn get_address_txids(
        &self,
        addresses: &[String],
        start: Height,
        end: Height,
    ) -> Result<Vec<TxId>, ClientError> {
        self.call_as("getaddresstxids", json!([{"addresses": addresses, "start": start, "end": end}]))
    }

    /// What unconfirmed transactions pay to and spend from these addresses.
    pub fn get_address_mempool(&self, addresses: &[String]) -> Result<Vec<types::AddressDelta>, ClientError> {
        self.call_as("getaddressmempool", json!([{"addresses": addresses}]))
    }

    /// A transaction with its bytes and where it stands; error -5 when neither chain nor mempool has it.
    pub fn get_raw_transaction(&self, txid: TxId) -> Result<types::RawTransaction, ClientError> {
        self.call_as("getrawtransaction", json!([txid, 1]))
    }

    /// Broadcasts a transaction given as hex.
    pub fn send_raw_transaction(&self, hex: &str) -> Result<TxId, ClientError> {
        self.call_as("sendrawtransaction", json!([hex]))
    }

    /// Whether the mempool would take a transaction given as hex.
    pub fn test_mempool_accept(&self, hex: &str) -> Result<types::MempoolAccept, ClientError> {
        let mut verdicts: Vec<types::MempoolAccept> = self.call_as("testmempoolaccept", json!([[hex]]))?;
        match (verdicts.pop(), verdicts.is_empty()) {
            (Some(verdict), true) => Ok(verdict),
            _ => Err(ClientError::Malformed("testmempoolaccept: one verdict expected".to_owned())),
        }
    }

    /// Fee rate that should confirm within `blocks`.
    pub fn estimate_smart_fee(&self, blocks: u32) -> Result<types::FeeEstimate, ClientError> {
        self.call_as("estimatesmartfee", json!([blocks]))
    }

    /// State of the mempool.
    pub fn get_mempool_info(&self) -> Result<types::MempoolInfo, ClientError> {
        self.call_as("getmempoolinfo", json!([]))
    }

    /// Whether a text is an address of the node's network.
    pub fn validate_address(&self, address: &str) -> Result<types::ValidatedAddress, ClientError> {
        self.call_as("validateaddress", json!([address]))
    }
}

#[cfg(test)]
mod tests;
