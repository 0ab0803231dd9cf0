// The conformance suite of Blossom servers (conformance/) against the binary: no rule may be broken, whatever its strength, but those
// below, of which each has its reason.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { binary, isOtherHost, startRelay } from './relay.mjs'

/** Rules that are not kept. */
const BROKEN = {
  'cors-too-large': 'hyper answers a head of more than 16 KiB by itself, with 431 and no further header',
}

const suite = () => {
  const found = join(dirname(binary()), 'relay-conformance')
  if (!existsSync(found)) throw new Error('no conformance suite: cargo build -p relay-conformance')
  return found
}

async function run(...args) {
  const child = spawn(suite(), [...args, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', chunk => (output += chunk))
  const code = await new Promise(done => child.on('close', done))
  assert.ok(code < 2, `the suite could not run: ${output}`)
  return JSON.parse(output)
}

const options = { skip: (isOtherHost || process.env.RELAY_URL) && 'edge/tests/blossom.test.mjs runs it against the Worker' }

for (const [name, env, args] of [
  ['by default', {}, []],
  ['with private addresses allowed', { RELAY_BLOSSOM__ALLOW_PRIVATE_ADDRESSES: 'true' }, ['--private-allowed']],
]) {
  test(`no rule of Blossom is broken ${name}`, options, async () => {
    const relay = await startRelay({ env })
    try {
      const report = await run('--url', relay.http, ...args)
      const failed = report.results.filter(rule => rule.result === 'fail' && !(rule.id in BROKEN))
      assert.deepEqual(failed, [])
      assert.ok(report.results.filter(rule => rule.result === 'pass').length > 300)
    } finally {
      await relay.stop()
    }
  })
}
