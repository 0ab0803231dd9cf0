// nostr-dvm (nostr_dvm_roles.py, in the virtual environment of setup.sh) as a provider of jobs on this relay, and as a customer of
// its agents.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import * as nip04 from 'nostr-tools/nip04'
import { SimplePool } from 'nostr-tools/pool'
import { connected, leave, order, ping, storedAt } from './jobs.mjs'
import { startRelayOfOwner } from './owner.mjs'
import { author, binary, isOtherHost, now, root, until, within, withoutRelayVariables } from './relay.mjs'

const skip = process.env.RELAY_URL ? 'agents are deployed on relays of our own' : false
const program = join(import.meta.dirname, 'nostr_dvm_roles.py')

/** Starts nostr-dvm in a folder of its own, and waits until it has printed its public key. */
async function start(role, ...args) {
  const folder = mkdtempSync(join(tmpdir(), 'nostr-dvm-'))
  const python = join(root, 'target', 'clients', 'bin', 'python')
  const child = spawn(python, ['-u', program, role, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
  const it = { output: '' }
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (it.output += chunk))
  const exited = new Promise(resolve => child.on('exit', resolve))
  it.exited = exited
  it.interrupt = () => child.kill('SIGINT')
  it.stop = async () => {
    child.kill('SIGKILL')
    await exited
    rmSync(folder, { recursive: true, force: true })
  }
  const find = () => it.output.match(/^pubkey ([0-9a-f]{64})$/m)
  try {
    await until(`the public key of nostr-dvm's ${role}`, find)
  } catch (error) {
    await it.stop()
    throw new Error(`${error.message}:\n${it.output}`)
  }
  it.pubkey = find()[1]
  return it
}

let server, pool, stored
before(async () => {
  server = await startRelayOfOwner()
  pool = new SimplePool()
  stored = storedAt(pool, server.url)
})
after(async () => {
  pool.destroy()
  await server.stop()
})


/** The market lists the provider with what it has done for one customer, and anybody can recompute it. */
async function figuresAreRight(t, pubkey) {
  // It subscribes to requests from then on, so it never sees one of two hours ago, which has failed.
  const other = author()
  const unanswered = other.sign({ kind: 5050, created_at: now() - 7200, content: '', tags: [['p', pubkey], ['i', 'x', 'text']] })
  await within('OK', Promise.all(pool.publish([server.url], unanswered)))
  const listed = async () => (await (await fetch(`${server.http}/market?kind=5050&q=upper+case`)).json()).providers
  await until('figures', async () => {
    const figures = (await listed())[0]?.figures
    return figures?.jobs_delivered === 2 && figures.jobs_failed === 1
  })
  const [entry, ...others] = await listed()
  assert.equal(others.length, 0)
  assert.deepEqual([entry.pubkey, entry.name, entry.online], [pubkey, 'shout', true])
  assert.deepEqual(entry.offers.map(offer => [offer.kinds, offer.price]), [[[5050], { model: 'unknown' }]])
  assert.ok(now() - entry.last_seen < 60)
  assert.ok(entry.figures.latency_seconds_median_of_customers < 30)
  const verify = () =>
    new Promise(done => {
      const options = { env: withoutRelayVariables() }
      execFile(binary(), ['market', 'verify', server.url, entry.npub, '--json'], options, (error, stdout, stderr) => done([error?.code ?? 0, stdout, stderr]))
    })
  const [code, stdout, stderr] = await verify()
  assert.equal(code, 0, stdout + stderr)
  const found = JSON.parse(stdout)
  assert.deepEqual(found.recomputed, found.claimed)
  // One of two customers is content.
  assert.deepEqual([found.recomputed.distinct_customers_served, found.recomputed.success_ratio_mean_of_customers], [1, 0.5])
}

test('nostr-dvm provides: announces itself, answers jobs of NDK, plain and by NIP-44, and retracts', async t => {
  const provider = await start('provider', server.url)
  t.after(provider.stop)
  const by = { authors: [provider.pubkey] }
  // It subscribes last of all, and never sees requests of before.
  await ping(pool, server.url, provider.pubkey)

  const [announcement] = await stored({ kinds: [31990], '#k': ['5050'] })
  assert.equal(announcement.pubkey, provider.pubkey)
  for (const kind of [0, 10002, 10050, 11998]) assert.equal((await stored({ kinds: [kind], ...by })).length, 1, `kind ${kind}`)

  const ndk = await connected(server.url)
  t.after(() => leave(ndk))
  const text = 'line\nquote " and 漢'
  for (const encrypted of [false, true]) {
    const tags = [['i', text, 'text'], ['output', 'text/plain'], ['relays', server.url]]
    const { result, feedback } = await order(ndk, provider.pubkey, { tags, encrypted })
    assert.equal(result.content, text.toUpperCase())
    assert.deepEqual(feedback.map(each => each.status), ['processing'])
  }

  // The edge has no market.
  if (!skip && !isOtherHost) await figuresAreRight(t, provider.pubkey)

  provider.interrupt()
  await within('its end', provider.exited)
  assert.deepEqual(await stored({ kinds: [31990], ...by }), [])
  assert.equal((await stored({ kinds: [5], ...by })).length, 1)
})

test('nostr-dvm orders: its bot reads the announcement of an agent, and passes on what that answers', { skip }, async t => {
  const agent = await server.run('deploy', join(root, 'agent', 'examples', 'echo.toml'))
  await until('the announcement', async () => (await stored({ kinds: [31990], authors: [agent.pubkey] })).length > 0)
  const bot = await start('customer', server.url, agent.pubkey)
  t.after(bot.stop)
  const { key, pubkey, sign } = author()
  const text = 'hello from a person'
  // Messages from before it subscribes it never sees.
  let asked = 0
  await until('the answer', async () => {
    if (performance.now() > asked + 5_000) {
      asked = performance.now()
      const content = nip04.encrypt(key, bot.pubkey, `1 ${text}`)
      const message = sign({ kind: 4, created_at: now(), content, tags: [['p', bot.pubkey]] })
      await within('OK', Promise.all(pool.publish([server.url], message)))
    }
    const messages = await stored({ kinds: [4], authors: [bot.pubkey], '#p': [pubkey] })
    return messages.some(message => nip04.decrypt(key, bot.pubkey, message.content) === text)
  })
  assert.match(bot.output, /^encrypts True$/m)
  const orders = await stored({ kinds: [5050], authors: [bot.pubkey] })
  assert.ok(orders.length > 0 && orders.every(request => !JSON.stringify(request).includes(text)))
})
