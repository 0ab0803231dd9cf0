// nostr-dvm (nostr_dvm_roles.py, in the virtual environment of setup.sh) as a provider of jobs on this relay, and as a customer of
// its agents.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import * as nip04 from 'nostr-tools/nip04'
import { SimplePool } from 'nostr-tools/pool'
import { connected, leave, order, ping, storedAt } from './jobs.mjs'
import { startRelayOfOwner } from './owner.mjs'
import { author, now, root, until, within } from './relay.mjs'

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
