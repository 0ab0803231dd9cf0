// The native server, for what is to be the same on both hosts.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { serverBinary } from './host.mjs'

/** The environment without what would configure the relay. */
const environment = vars => {
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith('RELAY_'))
  return { ...Object.fromEntries(others), ...vars }
}

/** Starts the server over an empty folder. `config` has tables of settings, `vars` are environment variables. */
export async function startServer({ config, vars }) {
  const data = mkdtempSync(join(tmpdir(), 'relay-agents-'))
  const lines = Object.entries(config).flatMap(([table, settings]) => [
    `[${table}]`,
    ...Object.entries(settings).map(([name, value]) => `${name} = ${JSON.stringify(value)}`),
  ])
  writeFileSync(join(data, 'relay.toml'), lines.join('\n'))
  const args = ['serve', '--config', join(data, 'relay.toml'), '--listen', '127.0.0.1:0', '--data', join(data, 'data')]
  const child = spawn(serverBinary(), args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: data, env: environment(vars) })
  const exited = new Promise(done => child.on('exit', done))
  let log = ''
  const url = await new Promise((done, fail) => {
    exited.then(code => fail(new Error(`the relay exited with ${code}:\n${log}`)))
    for (const output of [child.stdout, child.stderr]) {
      output.on('data', chunk => {
        log += chunk
        const found = log.match(/ws:\/\/127\.0\.0\.1:\d+/)
        if (found) done(found[0])
      })
    }
  })
  return {
    url,
    data: join(data, 'data'),
    http: url.replace('ws', 'http'),
    stop: async () => {
      child.kill('SIGTERM')
      assert.equal(await exited, 0, log)
      rmSync(data, { recursive: true, force: true })
    },
  }
}

/** Runs `relay agent` for a relay, signed by the key in a file, and gives the JSON that it prints. */
export const relayAgent = (host, keyFile, ...args) =>
  new Promise((done, fail) => {
    const options = ['--url', host.http, '--key', keyFile, '--json']
    execFile(serverBinary(), ['agent', ...args, ...options], { cwd: tmpdir(), env: environment() }, (error, stdout, stderr) => {
      if (error) fail(new Error(`relay agent ${args.join(' ')}: ${error.message}\n${stderr}`))
      else done(JSON.parse(stdout))
    })
  })
