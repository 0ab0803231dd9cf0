// An owner of agents, who deploys them with the command line of the relay's binary, on whichever host is under test.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { binary, isOtherHost, now, startRelay, withoutRelayVariables } from './relay.mjs'

/** The host's master secret in these tests: a mnemonic of NIP-06's own. */
export const MNEMONIC = 'leader monkey parrot ring guide accident before fence cannon height naive bean'

/** Starts a relay on which `run` does what `relay agent` does, and gives the JSON that it prints. */
export async function startRelayOfOwner() {
  const key = generateSecretKey()
  const relay = await startRelay({
    config: { policy: { admin_pubkeys: [getPublicKey(key)] } },
    env: { AGENT_MASTER_SECRET: MNEMONIC },
  })
  const signed = ['--url', relay.http, '--json']
  if (isOtherHost) {
    const file = join(relay.data, 'key')
    writeFileSync(file, Buffer.from(key).toString('hex'), { mode: 0o600 })
    signed.push('--key', file)
  } else {
    // The key of the owner is made there.
    signed.push('--data', relay.data)
  }
  const run = (...args) =>
    new Promise((resolve, reject) => {
      const options = { cwd: relay.data, env: withoutRelayVariables() }
      execFile(binary(), ['agent', ...args, ...signed], options, (error, stdout, stderr) => {
        if (error) reject(new Error(`relay agent ${args.join(' ')}: ${error.message}\n${stderr}`))
        else resolve(JSON.parse(stdout))
      })
    })
  return { ...relay, run }
}

let signed = 0

/** Deploys an agent over HTTP, signed with an administrator's key (NIP-98), on a relay whose setting `url` is this; gives its public key. */
export async function deploy(relay, url, admin, manifest) {
  const body = JSON.stringify(manifest)
  const payload = createHash('sha256').update(body).digest('hex')
  const tags = [['u', `${url.replace('ws', 'http')}/agents`], ['method', 'POST'], ['nonce', `${signed++}`], ['payload', payload]]
  const token = finalizeEvent({ kind: 27235, created_at: now(), tags, content: '' }, admin)
  const authorization = `Nostr ${Buffer.from(JSON.stringify(token)).toString('base64')}`
  const response = await fetch(`${relay.http}/agents`, { method: 'POST', headers: { authorization }, body })
  const document = await response.json()
  assert.equal(response.status, 201, JSON.stringify(document))
  return document.pubkey
}
