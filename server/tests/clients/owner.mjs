// An owner of agents, who deploys them with the command line of the relay's binary, on whichever host is under test.
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generateSecretKey, getPublicKey } from 'nostr-tools/pure'
import { binary, isOtherHost, startRelay, withoutRelayVariables } from './relay.mjs'

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
