// The server's own tests of foreign clients, against the Worker.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const path = relative => fileURLToPath(new URL(relative, import.meta.url))

test('foreign clients find the same relay here', async () => {
  const env = { ...process.env, RELAY_E2E_COMMAND: `node ${path('host.mjs')}` }
  // Started as the server's part of the test command starts it, so that nothing of this runner leaks in.
  delete env.NODE_TEST_CONTEXT
  const run = spawn('npm', ['test'], { cwd: path('../../server/tests/clients'), env, stdio: 'inherit' })
  assert.equal(await new Promise(done => run.on('exit', done)), 0)
})
