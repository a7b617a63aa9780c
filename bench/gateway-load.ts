// A closed loop over raw sockets: each connection sends its next request once the last answer is whole.
// Every latency is kept; nothing is corrected, so quantiles are those of the samples.
import { connect } from 'node:net'

export interface Shot {
  readonly port: number
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export interface Burst {
  readonly requestsPerSecond: number
  readonly latenciesMs: readonly number[]
}

const END_OF_HEAD = Buffer.from('\r\n\r\n')
const END_OF_CHUNKS = Buffer.from('\r\n0\r\n\r\n')

/** Throws on the first answer that is not 200: a fast refusal is no answer. `shots` go round robin. */
export async function fire(shots: readonly Shot[], connections: number, ms: number): Promise<Burst> {
  const latenciesMs: number[] = []
  const wires = shots.map(wireOf)
  let next = 0
  const started = performance.now()
  const until = started + ms
  const take = () => wires[next++ % wires.length] as Buffer
  const port = shots[0]?.port ?? 0
  await Promise.all(Array.from({ length: connections }, () => loop(port, take, until, latenciesMs)))
  return { requestsPerSecond: (1000 * latenciesMs.length) / (performance.now() - started), latenciesMs }
}

function wireOf({ port, path, headers, body }: Shot): Buffer {
  const lines = Object.entries({ ...headers, host: `127.0.0.1:${port}`, 'content-length': Buffer.byteLength(body) })
  const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  return Buffer.from(`POST ${path} HTTP/1.1\r\n${head}\r\n${body}`)
}

function loop(port: number, take: () => Buffer, until: number, latenciesMs: number[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    let held: Buffer = Buffer.alloc(0)
    let sentAt = 0
    const send = () => {
      sentAt = performance.now()
      socket.write(take())
    }
    socket.on('connect', send)
    socket.on('error', reject)
    socket.on('close', () => reject(new Error(`port ${port} closed a connection in mid-run`)))
    socket.on('data', (chunk) => {
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk])
      const size = sizeOfAnswer(held)
      if (size === undefined) return
      const now = performance.now()
      latenciesMs.push(now - sentAt)
      if (held.subarray(9, 12).toString('latin1') !== '200') {
        socket.destroy()
        reject(new Error(`port ${port} answered: ${held.toString('utf8').slice(0, 600)}`))
        return
      }
      held = held.subarray(size)
      if (now < until) return send()
      socket.removeAllListeners('close')
      socket.destroy()
      resolve()
    })
  })
}

/** Undefined until the whole answer is there. */
function sizeOfAnswer(held: Buffer): number | undefined {
  const end = held.indexOf(END_OF_HEAD)
  if (end < 0) return undefined
  const length = /\r\ncontent-length: *(\d+)/i.exec(held.toString('latin1', 0, end))?.[1]
  if (length !== undefined) {
    const size = end + END_OF_HEAD.length + Number(length)
    return held.length >= size ? size : undefined
  }
  return held.subarray(-END_OF_CHUNKS.length).equals(END_OF_CHUNKS) ? held.length : undefined
}
