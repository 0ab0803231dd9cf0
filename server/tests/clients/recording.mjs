// A proxy that writes down what a client and a relay say to each other.
import { createServer } from 'node:http'
import { WebSocket, WebSocketServer } from 'ws'

/** Starts a proxy of the relay at `url`. `sent` and `received` are the messages of all its clients, as the client sees them. */
export async function startRecording(url) {
  const http = createServer(async (request, response) => {
    const answer = await fetch(url.replace('ws', 'http') + request.url, { headers: { accept: request.headers.accept ?? '*/*' } })
    response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' })
    response.end(Buffer.from(await answer.arrayBuffer()))
  })
  const sent = []
  const received = []
  const server = new WebSocketServer({ server: http })
  server.on('connection', client => {
    const relay = new WebSocket(url)
    const waiting = []
    const pass = (from, list, send) =>
      from.on('message', (data, isBinary) => {
        if (!isBinary) list.push(JSON.parse(data))
        send(data, isBinary)
      })
    pass(client, sent, (data, binary) => {
      if (relay.readyState === WebSocket.OPEN) relay.send(data, { binary })
      else waiting.push([data, binary])
    })
    relay.on('open', () => {
      for (const [data, binary] of waiting) relay.send(data, { binary })
    })
    pass(relay, received, (data, binary) => client.send(data, { binary }))
    for (const [from, to] of [[client, relay], [relay, client]]) {
      from.on('error', () => {})
      from.on('close', () => to.close())
    }
  })
  await new Promise(resolve => http.listen(0, '127.0.0.1', resolve))
  return {
    url: `ws://127.0.0.1:${http.address().port}`,
    sent,
    received,
    stop: async () => {
      for (const client of server.clients) client.terminate()
      server.close()
      http.closeAllConnections()
      await new Promise(resolve => http.close(resolve))
    },
  }
}
