// The server's own tests of third-party clients, against the Worker.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const path = relative => fileURLToPath(new URL(relative, import.meta.url))

/** Runs the server's tests of clients, or these of them, on a host that `node` runs; gives the exit code. */
function clients(host, ...files) {
  const env = { ...process.env, RELAY_E2E_COMMAND: `node ${path('host.mjs')}${host}` }
  // Started as the server's part of the test command starts it, so that nothing of this runner leaks in.
  delete env.NODE_TEST_CONTEXT
  const run = spawn('npm', ['test', '--', ...files], { cwd: path('../../server/tests/clients'), env, stdio: 'inherit' })
  return new Promise(done => run.on('exit', done))
}

test('third-party clients find the same relay here', async () => {
  assert.equal(await clients(''), 0)
})

test('third-party clients of Blossom find the same server, where there is a bucket', async () => {
  assert.equal(await clients(' --r2', 'blossom.test.mjs', 'blossom-page.test.mjs', 'blossom-payments.test.mjs'), 0)
})
