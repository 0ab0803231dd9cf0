// The server's own nostr-tools tests, against the Worker.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { startWorkerd } from './host.mjs'

test('nostr-tools finds the same relay here', async () => {
  const relay = await startWorkerd()
  const cwd = new URL('../../server/tests/nostr-tools', import.meta.url).pathname
  const env = { ...process.env, RELAY_URL: relay.url }
  // Started as the server's part of the test command starts it, so that nothing of this runner leaks in.
  delete env.NODE_TEST_CONTEXT
  const run = args => new Promise(done => spawn('npm', args, { cwd, env, stdio: 'inherit' }).on('exit', done))
  assert.equal(await run(['ci', '--no-audit', '--no-fund', '--silent']), 0)
  assert.equal(await run(['test']), 0)
  await relay.stop()
})
