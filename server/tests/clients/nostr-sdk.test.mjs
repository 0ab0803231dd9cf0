// Tests with nostr-sdk for Python: nostr_sdk_client.py in the virtual environment that setup.sh creates.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { root, startRelay } from './relay.mjs'

test('nostr-sdk for Python reads, listens, publishes and authenticates', async t => {
  const server = await startRelay()
  t.after(() => server.stop())
  const python = join(root, 'target', 'clients', 'bin', 'python')
  const child = spawn(python, ['nostr_sdk_client.py', server.url], { cwd: import.meta.dirname, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (output += chunk))
  const code = await new Promise((resolve, reject) => child.on('exit', resolve).on('error', reject))
  assert.equal(code, 0, output)
  assert.match(output, /^Ran 3 tests /m)
})
