// An agent moves from the server to the edge and back by two commands, with its key and its history.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { ECHO, ask, request } from './agents_client.mjs'
import { Client, generateSecretKey, getPublicKey } from './client.mjs'
import { startEdge } from './host.mjs'
import { relayAgent, startServer } from './server.mjs'

test('an agent moves from the server to the edge and back', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'relay-move-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const written = (name, content) => {
    const file = join(folder, name)
    writeFileSync(file, content, { mode: 0o600 })
    return file
  }
  const owner = generateSecretKey()
  const key = written('owner.key', Buffer.from(owner).toString('hex'))
  const options = {
    config: { policy: { admin_pubkeys: [getPublicKey(owner)] } },
    vars: { AGENT_MASTER_SECRET: '0b'.repeat(32) },
  }
  let file = written('echo.json', JSON.stringify(ECHO))
  let first
  const done = []
  for (const [place, start] of [['server', startServer], ['edge', startEdge], ['another server', startServer]]) {
    const host = await start(options)
    t.after(() => host.stop())
    const client = await Client.open(host.url)
    t.after(() => client.close())
    const agent = await relayAgent(host, key, 'deploy', file)
    first ??= agent
    assert.deepEqual([agent.npub, agent.pubkey], [first.npub, first.pubkey], place)
    const job = request(agent, place)
    assert.deepEqual(await ask(client, job), ['processing', `result: ${place}`])
    done.unshift(job.id)
    const { jobs } = await relayAgent(host, key, 'history', agent.npub)
    assert.deepEqual(jobs.map(({ id }) => id), done, place)
    file = written('export.json', JSON.stringify(await relayAgent(host, key, 'export', agent.npub)))
  }
})
