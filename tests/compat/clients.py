"""python-bitcoinrpc and python-bitcoinlib, unmodified, against the node that `run` started."""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from decimal import Decimal

import bitcoin.rpc as bitcoinlib
from bitcoinrpc.authproxy import AuthServiceProxy, JSONRPCException

PORT = int(os.environ["COMPAT_PORT"])
NETWORK_DIR = os.environ["COMPAT_NETWORK_DIR"]
# The address of 32 bytes of 7: nobody's, but a good one.
ADDRESS = "dset1qqurswpc8qurswpc8qurswpc8qurswpc8qurswpc8qurswpc8qursqara76"
GENESIS = "774846e1d3fd4958e6af65e7cb3afadd4bc67ea2b3f2679cf1c3eecef3876da2"


def url(user="alice", password="correct%20horse"):
    return f"http://{user}:{password}@127.0.0.1:{PORT}/"


def cookie():
    with open(os.path.join(NETWORK_DIR, ".cookie")) as file:
        return file.read()


# python-bitcoinrpc hands user and password over as they stand in the URL, so the cookie, which has no odd characters,
# is what works with it.
def bitcoinrpc():
    user, password = cookie().split(":")
    return AuthServiceProxy(url(user, password))


def raised(work, *arguments):
    try:
        result = work(*arguments)
    except JSONRPCException as error:
        return error
    raise AssertionError(f"answered {result!r}")


def bitcoinrpc_reads_an_empty_chain():
    node = bitcoinrpc()
    info = node.getblockchaininfo()
    assert info["chain"] == "regtest" and info["bestblockhash"] == node.getbestblockhash()
    assert node.getblockhash(0) == GENESIS
    genesis = node.getblock(GENESIS)
    assert genesis["height"] == 0 and genesis["nTx"] == 1 and len(genesis["tx"]) == 1


def bitcoinrpc_generates_blocks_and_reads_them_at_every_verbosity():
    node = bitcoinrpc()
    before = node.getblockcount()
    hashes = node.generatetoaddress(101, ADDRESS)
    assert len(hashes) == 101 and node.getblockcount() == before + 101
    last = hashes[-1]
    assert node.getbestblockhash() == last
    raw = node.getblock(last, 0)
    header = node.getblockheader(last, False)
    assert len(header) == 160 and raw.startswith(header)
    plain, full, prevouts = (node.getblock(last, verbosity) for verbosity in (1, 2, 3))
    assert plain["hash"] == last and plain["confirmations"] == 1 and plain["size"] == len(raw) // 2
    coinbase = full["tx"][0]
    assert coinbase["txid"] == plain["tx"][0] == prevouts["tx"][0]["txid"]
    assert "coinbase" in coinbase["vin"][0]
    assert coinbase["vout"][0]["scriptPubKey"]["address"] == ADDRESS
    assert node.getblockheader(last)["previousblockhash"] == hashes[-2]


def bitcoinrpc_reads_amounts_exactly():
    node = bitcoinrpc()
    block = node.getblock(node.getblockhash(1), 2)
    value = block["tx"][0]["vout"][0]["value"]
    assert isinstance(value, Decimal) and str(value) == "5.00000000", repr(value)
    coin = node.gettxout(block["tx"][0]["txid"], 0)
    assert str(coin["value"]) == "5.00000000" and coin["coinbase"] is True
    assert isinstance(node.getmempoolinfo()["mempoolminfee"], Decimal)
    assert isinstance(node.getdifficulty(), Decimal)


def bitcoinrpc_sees_the_codes_of_bitcoin_core():
    node = bitcoinrpc()
    rows = [
        (-8, node.getblockhash, 10**6),
        (-8, node.getblockhash, -1),
        (-5, node.getblock, "00" * 32),
        (-8, node.getblock, "abc"),
        (-3, node.getblockhash, "one"),
        (-1, node.getblockhash),
        (-1, node.getblockhash, 1, 2),
        (-32601, node.nosuchmethod),
        (-22, node.sendrawtransaction, "zz"),
        (-22, node.decoderawtransaction, "00"),
        (-5, node.getrawtransaction, "11" * 32),
        (-5, node.generatetoaddress, 1, "set1qnonsense"),
    ]
    for code, method, *arguments in rows:
        error = raised(method, *arguments)
        assert error.code == code, f"{arguments}: {error.code} {error.message}, not {code}"
        assert error.message, arguments


def wallet(*arguments):
    run = subprocess.run([os.environ["COMPAT_WALLET"], *arguments], capture_output=True, check=True)
    return json.loads(run.stdout)


def sends_a_transaction(node):
    """Funds the wallet, sends what it signs, sees it wait, mines it, and is told that it is known."""
    node.generatetoaddress(101, wallet("address")["address"])
    made = wallet("send", ADDRESS, "1.5", "--dry-run")
    raw, txid = made["transaction"], made["txid"]
    decoded = node.decoderawtransaction(raw)
    assert decoded["txid"] == txid and any(str(out["value"]) == "1.50000000" for out in decoded["vout"])
    assert node.testmempoolaccept([raw])[0]["allowed"] is True
    assert node.sendrawtransaction(raw) == txid
    assert txid in node.getrawmempool()
    entry = node.getmempoolentry(txid)
    assert str(entry["fees"]["base"]) == str(decoded["fee"]) and entry["vsize"] == len(raw) // 2
    (block,) = node.generatetoaddress(1, ADDRESS)
    confirmed = node.getrawtransaction(txid, 1)
    assert confirmed["confirmations"] == 1 and confirmed["blockhash"] == block and confirmed["hex"] == raw
    assert txid in node.getblock(block)["tx"]
    assert node.verifytxoutproof(node.gettxoutproof([txid])) == [txid]
    return raw


def bitcoinrpc_sends_a_transaction():
    node = bitcoinrpc()
    assert raised(node.sendrawtransaction, sends_a_transaction(node)).code == -27


def bitcoinrpc_submits_blocks():
    node = bitcoinrpc()
    block = node.generateblock(ADDRESS, [], False)
    assert node.submitblock(block["hex"]) is None and node.getbestblockhash() == block["hash"]
    assert node.submitblock(block["hex"]) == "duplicate"
    template = node.getblocktemplate({"rules": ["segwit"]})
    assert template["previousblockhash"] == block["hash"] and template["height"] == node.getblockcount() + 1
    assert raised(node.submitblock, "zz").code == -22


def bitcoinrpc_reuses_one_connection():
    node = bitcoinrpc()
    for height in range(100):
        assert len(node.getblockhash(height)) == 64


def bitcoinrpc_with_a_wrong_password_gets_an_error_not_an_empty_reply():
    error = raised(AuthServiceProxy(url("alice", "wrong")).getblockcount)
    assert "401" in error.message, error.message


def bitcoinrpc_batch_fails_as_it_does_with_bitcoin_core_28():
    # It sends JSON-RPC 2.0 and looks for `error` in every answer, which 2.0 leaves out of good ones.
    try:
        bitcoinrpc().batch_([["getblockcount"], ["getblockhash", 0]])
    except KeyError as error:
        assert error.args == ("error",)
    else:
        raise AssertionError("an answer of JSON-RPC 2.0 has an `error` beside its result")


def bitcoinlib_calls_by_rpcauth_user():
    user = bitcoinlib.RawProxy(service_url=url("alice", "correct horse"))
    assert user.getblockhash(0) == GENESIS
    assert str(user.getblock(user.getblockhash(1), 2)["tx"][0]["vout"][0]["value"]) == "5.00000000"


def bitcoinlib_finds_the_cookie_by_its_configuration_file():
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write(f"rpcconnect=127.0.0.1\nrpcport={PORT}\ndatadir={NETWORK_DIR}\n")
        conf.flush()
        assert bitcoinlib.RawProxy(btc_conf_file=conf.name).getblockhash(0) == GENESIS


def bitcoinlib_maps_codes_to_its_exceptions():
    node = bitcoinlib.RawProxy(service_url=url("alice", "correct horse"))
    rows = [
        (bitcoinlib.InvalidParameterError, "getblockhash", 10**6),
        (bitcoinlib.InvalidAddressOrKeyError, "getblock", "00" * 32),
    ]
    for expected, method, argument in rows:
        try:
            getattr(node, method)(argument)
        except expected:
            continue
        raise AssertionError(f"{method}: not {expected.__name__}")


def bitcoinlib_sends_a_transaction():
    node = bitcoinlib.RawProxy(service_url=url("alice", "correct horse"))
    raw = sends_a_transaction(node)
    try:
        node.sendrawtransaction(raw)
    except bitcoinlib.VerifyAlreadyInChainError:
        return
    raise AssertionError("sent twice")


def bitcoinlib_batches_in_its_own_form():
    node = bitcoinlib.RawProxy(service_url=url("alice", "correct horse"))
    calls = [
        {"version": "1.1", "method": "getblockhash", "params": [0], "id": 1},
        {"version": "1.1", "method": "nosuchmethod", "params": [], "id": "two"},
        {"version": "1.1", "method": "getblockcount", "id": -3},
    ]
    one, two, three = node._batch(calls)
    assert one == {"result": GENESIS, "error": None, "id": 1}
    assert two["error"]["code"] == -32601 and two["id"] == "two" and two["result"] is None
    assert three["result"] >= 101 and three["id"] == -3


def main():
    tests = [function for name, function in globals().items() if name.startswith(("bitcoinrpc_", "bitcoinlib_"))]
    failed = 0
    for test in tests:
        try:
            test()
            print(f"test {test.__name__} ... ok")
        except Exception:
            failed += 1
            print(f"test {test.__name__} ... FAILED")
            traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failed} passed, {failed} failed", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
