// npm's bitcoin-core, unmodified, against the node that `run` started.
'use strict';

const assert = require('assert');
const { execFileSync } = require('child_process');
const fs = require('fs');
const path = require('path');
const Client = require('bitcoin-core');

const ADDRESS = 'dset1qqurswpc8qurswpc8qurswpc8qurswpc8qurswpc8qurswpc8qursqara76';
const GENESIS = '774846e1d3fd4958e6af65e7cb3afadd4bc67ea2b3f2679cf1c3eecef3876da2';

const host = `http://127.0.0.1:${process.env.COMPAT_PORT}`;
const user = { username: 'alice', password: 'correct horse' };
const client = new Client({ host, ...user });

const code = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return assert.fail('it was answered');
};

const tests = {
  async 'reads the chain by the user of rpcauth'() {
    assert.strictEqual((await client.getBlockchainInfo()).chain, 'regtest');
    assert.strictEqual(await client.getBlockHash(0), GENESIS);
    assert.strictEqual(typeof await client.getBlockCount(), 'number');
  },

  async 'reads the chain by the cookie'() {
    const [username, password] = fs.readFileSync(path.join(process.env.COMPAT_NETWORK_DIR, '.cookie'), 'utf8').split(':');
    assert.strictEqual(await new Client({ host, username, password }).getBlockHash(0), GENESIS);
  },

  async 'generates blocks and reads them'() {
    const before = await client.getBlockCount();
    const hashes = await client.generateToAddress(3, ADDRESS);
    assert.strictEqual(hashes.length, 3);
    assert.strictEqual(await client.getBlockCount(), before + 3);
    const block = await client.getBlock(hashes[2], 2);
    assert.strictEqual(block.previousblockhash, hashes[1]);
    assert.strictEqual(block.tx[0].vout[0].scriptPubKey.address, ADDRESS);
    assert.strictEqual(typeof block.tx[0].vout[0].value, 'number');
    assert.strictEqual((await client.getBlock(hashes[2], 0)).length, 2 * block.size);
  },

  async 'sends a transaction'() {
    const wallet = (...command) => JSON.parse(execFileSync(process.env.COMPAT_WALLET, command, { encoding: 'utf8' }));
    await client.generateToAddress(101, wallet('address').address);
    const { transaction, txid } = wallet('send', ADDRESS, '0.25', '--dry-run');
    assert.strictEqual(await client.sendRawTransaction(transaction), txid);
    assert((await client.getRawMempool()).includes(txid));
    assert.strictEqual(await client.sendRawTransaction(transaction), txid);
    const [block] = await client.generateToAddress(1, ADDRESS);
    assert.strictEqual((await client.getRawTransaction(txid, 1)).blockhash, block);
    assert.strictEqual(await code(client.sendRawTransaction(transaction)), -27);
  },

  async 'counts money in numbers that JavaScript can hold'() {
    const balance = await client.command('getaddressbalance', { addresses: [ADDRESS] });
    assert(Number.isSafeInteger(balance.balance) && balance.balance > 0, JSON.stringify(balance));
  },

  async 'sees the codes of Bitcoin Core'() {
    assert.strictEqual(await code(client.getBlockHash(1e6)), -8);
    assert.strictEqual(await code(client.getBlock('00'.repeat(32))), -5);
    assert.strictEqual(await code(client.command('nosuchmethod')), -32601);
    assert.strictEqual(await code(client.getBlockHash('one')), -3);
  },

  async 'batches, with errors among the answers'() {
    const [first, second, third] = await client.command([
      { method: 'getblockhash', parameters: [0] },
      { method: 'getblockhash', parameters: [1e6] },
      { method: 'getblockcount', parameters: [] },
    ]);
    assert.strictEqual(first, GENESIS);
    assert.strictEqual(second.code, -8);
    assert.strictEqual(typeof third, 'number');
  },

  async 'names its parameters'() {
    const named = new Client({ host, ...user, version: '0.20.0' });
    assert.strictEqual(await named.getBlockHash({ height: 0 }), GENESIS);
    assert.strictEqual((await named.getBlock({ blockhash: GENESIS, verbosity: 1 })).height, 0);
    assert.strictEqual(await code(named.getBlockHash({ hieght: 0 })), -8);
  },

  async 'is told of a wrong password'() {
    assert.strictEqual(await code(new Client({ host, username: 'alice', password: 'wrong' }).getBlockCount()), 401);
  },
};

(async () => {
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      console.log(`test bitcoin-core: ${name} ... ok`);
    } catch (error) {
      failed += 1;
      console.log(`test bitcoin-core: ${name} ... FAILED\n${error.stack}`);
    }
  }
  console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
})();
