// Deleted agents in workerd: their objects are emptied, and the relay's object knows whose they were.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { ECHO, admin, api, ask, deploy, request, vars } from './agents_client.mjs'
import { Client, generateSecretKey, sleep } from './client.mjs'
import { startEdge } from './host.mjs'

/** The Worker, with the path /left/<npub>: what is stored in the object of an agent; /sent: how many requests to the API objects of
 * agents have got; and /again/<npub>/<number>: the object gets such a request once more, as from an isolate of the Worker that
 * knows nothing of the first. */
const main = `
import Entry, { AgentDurableObject as Agent } from './index.js'
export { BlossomDurableObject, MarketDurableObject, RelayDurableObject } from './index.js'
const sent = []
export class AgentDurableObject {
  constructor(state, env) {
    this.state = state
    this.object = new Agent(state, env)
  }
  async fetch(request) {
    const { pathname } = new URL(request.url)
    if (pathname === '/agents/api') {
      const body = await request.arrayBuffer()
      sent.push(body)
      return this.object.fetch(new Request(request.url, { method: 'POST', body }))
    }
    if (pathname !== '/left') return this.object.fetch(request)
    const { storage } = this.state
    const tables = storage.sql.exec('SELECT name FROM sqlite_master').toArray().map(table => table.name)
    return Response.json({ tables: tables.filter(name => !name.startsWith('_cf_')), alarm: await storage.getAlarm() })
  }
  alarm() { return this.object.alarm() }
}
export default {
  fetch(request, env, ctx) {
    const [, what, npub, number] = new URL(request.url).pathname.split('/')
    if (what === 'sent') return Response.json(sent.length)
    const object = env.AGENT.get(env.AGENT.idFromName(npub ?? ''))
    if (what === 'left') return object.fetch('https://object/left')
    if (what === 'again') return object.fetch('https://object/agents/api', { method: 'POST', body: sent[number] })
    return new Entry(ctx, env).fetch(request)
  },
}`

let edge, client
before(async () => {
  edge = await startEdge({ vars, main })
  client = await Client.open(edge.url)
})
after(async () => {
  await client.close()
  await edge.stop()
})

const left = async npub => (await fetch(`${edge.http}/left/${npub}`)).json()
/** Waits until nothing is left in the object of an agent. */
async function emptied(npub) {
  for (const end = Date.now() + 60_000; ; await sleep(100)) {
    const { tables, alarm } = await left(npub)
    if (tables.length === 0 && alarm === null) return
    assert.ok(Date.now() < end, `${tables} and an alarm at ${alarm} are left`)
  }
}

test('a deleted agent leaves an empty object, answers its owner, and goes on where it was', async () => {
  for (const version of [1, 2, 3]) {
    const agent = await deploy(edge, ECHO)
    assert.equal(agent.version, version, 'it is not another agent')
    assert.deepEqual(await ask(client, request(agent, `hello ${version}`)), ['processing', `result: hello ${version}`])
    assert.notEqual((await left(agent.npub)).tables.length, 0)
    assert.equal((await api(edge, 'DELETE', `/agents/${agent.npub}`)).json.state, 'deleted')
    // Whatever it is doing, it loses its memory.
    if (version === 2) await edge.evict(agent.npub, 'AgentDurableObject')
    await emptied(agent.npub)
    assert.deepEqual(await client.req('announced', { kinds: [31990], authors: [agent.pubkey] }), [])
    client.send('CLOSE', 'announced')
    const again = await api(edge, 'DELETE', `/agents/${agent.npub}`)
    assert.deepEqual([again.status, again.json.state], [200, 'deleted'])
    assert.equal((await api(edge, 'DELETE', `/agents/${agent.npub}`, { by: generateSecretKey() })).status, 403)
    assert.equal((await api(edge, 'GET', `/agents/${agent.npub}`, { by: null })).status, 404)
    // None of these has put anything there.
    await emptied(agent.npub)
    await edge.evict()
  }
  const nobody = `npub1${'q'.repeat(58)}`
  assert.ok([400, 404].includes((await api(edge, 'DELETE', `/agents/${nobody}`, { by: admin })).status))
})

/** Regression: when an object was emptied, the requests that it had carried out were forgotten. */
test('a signed request is not carried out again when its agent has been deleted', async () => {
  const number = async () => (await fetch(`${edge.http}/sent`)).json()
  const again = async (npub, number) => {
    const answer = await fetch(`${edge.http}/again/${npub}/${number}`)
    return [answer.status, /has been used/.test(await answer.text())]
  }
  const manifest = { ...ECHO, name: 'replayed' }
  const deployed = await number()
  const { npub } = await deploy(edge, manifest)
  const deleted = await number()
  assert.equal((await api(edge, 'DELETE', `/agents/${npub}`)).status, 200)
  await emptied(npub)
  assert.deepEqual(await again(npub, deployed), [401, true], 'it stays deleted')
  assert.deepEqual((await left(npub)).tables, [], 'and leaves nothing')
  assert.equal((await deploy(edge, manifest)).version, 2)
  for (const number of [deleted, deployed]) assert.deepEqual(await again(npub, number), [401, true], 'it stays deployed')
  assert.equal((await api(edge, 'GET', `/agents/${npub}`)).json.version, 2)
})
