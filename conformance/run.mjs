// Runs the suite for tests of a host (server/tests/clients, edge/tests): which rules it may break is said by each, with the reason.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

/**
 * Fails if the server at `url` breaks a rule that is not in `broken` (ids, each with the reason), or keeps one that is: then its entry has
 * to be removed. `binary` is one of the project's binaries, beside which the suite is; `args` are options of the suite.
 * At least `least` rules must have been kept, so that skipping them all is no success.
 */
export async function breaksOnly(broken, { binary, url, args = [], least }) {
  const suite = join(dirname(binary), 'relay-conformance')
  assert.ok(existsSync(suite), 'no conformance suite: cargo build -p relay-conformance')
  const child = spawn(suite, ['--url', url, ...args, '--json'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', chunk => (output += chunk))
  const code = await new Promise(done => child.on('close', done))
  assert.ok(code < 2, `the suite could not run: ${output}`)
  const { results } = JSON.parse(output)
  const found = result => results.filter(rule => rule.result === result)
  assert.deepEqual(found('fail').filter(rule => !Object.hasOwn(broken, rule.id)), [])
  assert.deepEqual(found('pass').filter(rule => Object.hasOwn(broken, rule.id)), [], 'these are kept now')
  assert.ok(found('pass').length >= least, `${found('pass').length} rules are kept`)
}
