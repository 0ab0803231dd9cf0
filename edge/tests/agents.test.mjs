// Agents in workerd: deployed over HTTP, asked over a WebSocket, whatever loses its memory in between.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, test } from 'node:test'
import { Client, generateSecretKey, getPublicKey, sign, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

const admin = generateSecretKey()
const vars = { ADMIN_PUBKEYS: getPublicKey(admin), AGENT_MASTER_SECRET: '0b'.repeat(32) }
const ECHO = { name: 'echo', handlers: [{ kind: 5050, executor: 'echo' }] }

/** Sends a request to the agents' API, signed (NIP-98) if `by` says by whom. */
export async function api(edge, method, path, { by = admin, body } = {}) {
  const url = edge.http + path
  const text = body === undefined ? undefined : JSON.stringify(body)
  const tags = [['u', url], ['method', method]]
  if (text) tags.push(['payload', createHash('sha256').update(text).digest('hex')])
  const event = by && sign({ kind: 27235, tags }, by)
  const headers = by ? { authorization: `Nostr ${Buffer.from(JSON.stringify(event)).toString('base64')}` } : {}
  const response = await fetch(url, { method, headers, body: text })
  const answer = await response.text()
  let json
  try { json = JSON.parse(answer) } catch {}
  return { status: response.status, text: answer, json, headers: response.headers }
}

export async function deploy(edge, manifest) {
  const { status, json, text } = await api(edge, 'POST', '/agents', { body: manifest })
  assert.ok([200, 201].includes(status), text)
  return json
}

const request = (agent, text, by = undefined) =>
  sign({ kind: 5050, tags: [['p', agent.pubkey], ['i', text, 'text']], content: '' }, by)

/** Publishes a request and returns the kinds of its answers, and the content of the last. */
async function ask(client, agent, text) {
  const job = request(agent, text)
  client.send('REQ', job.id, { kinds: [7000, 6050], '#e': [job.id] })
  assert.deepEqual(await client.publish(job), [true, ''])
  const answers = [await client.event(job.id), await client.event(job.id)]
  client.send('CLOSE', job.id)
  assert.deepEqual(answers.map(({ kind }) => kind).toSorted(), [6050, 7000])
  const result = answers.find(({ kind }) => kind === 6050)
  assert.equal(result.pubkey, agent.pubkey)
  return result.content
}

let edge, client
before(async () => {
  edge = await startEdge({ vars })
  client = await Client.open(edge.url)
})
after(async () => {
  await client.close()
  await edge.stop()
})

test('hello, agent', async () => {
  const agent = await deploy(edge, ECHO)
  assert.equal(agent.state, 'active')
  assert.match(agent.npub, /^npub1/)
  assert.equal(await ask(client, agent, 'hello'), 'hello')
})
