// The way to the backends on Node: what the gateway relies on when it asks one.
import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, it } from 'vitest'
import { createPooledFetch, type PooledFetch } from '../../cli/gateway/pooled-fetch.ts'

let server: Server
let pool: PooledFetch
afterEach(async () => {
  await pool.close()
  server.closeAllConnections()
  server.close()
})

async function serve(listener: RequestListener): Promise<(signal?: AbortSignal) => Promise<Response>> {
  server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  pool = createPooledFetch()
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/x?y=1`
  return (signal) =>
    pool.fetch(url, {
      method: 'POST',
      headers: { 'x-a': 'b' },
      body: 'ask',
      redirect: 'manual',
      ...(signal && { signal }),
    })
}

async function readAll(response: Response): Promise<string> {
  const reader = response.body?.getReader()
  let text = ''
  for (;;) {
    const next = await reader?.read()
    if (next === undefined || next.done) return text
    text += Buffer.from(next.value).toString()
  }
}

it('sends method, path, headers and body as given, and adds no encoding', async () => {
  const ask = await serve(async (request, response) => {
    const chunks = await request.toArray()
    const { method, url, headers } = request
    response.end(
      JSON.stringify({ method, url, a: headers['x-a'], encoding: headers['accept-encoding'], body: String(chunks[0]) }),
    )
  })
  const response = await ask()
  expect(response.status).toBe(200)
  expect(JSON.parse(await readAll(response))).toEqual({ method: 'POST', url: '/v1/x?y=1', a: 'b', body: 'ask' })
})

it('follows no redirect, and hands out headers by any case', async () => {
  const ask = await serve((_, response) => response.writeHead(302, { location: 'http://evil.test/' }).end())
  const response = await ask()
  expect(response.status).toBe(302)
  expect(response.headers.get('Location')).toBe('http://evil.test/')
  expect(response.headers.get('x-none')).toBeNull()
})

it('gives nothing up of an answer with an encoding that was not offered', async () => {
  const ask = await serve((_, response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end('xx'))
  await expect(ask()).rejects.toThrow('content encoding')
})

it('rejects where the caller hangs up before the answer, and lets go of the backend', async () => {
  const gone = Promise.withResolvers<void>()
  const controller = new AbortController()
  const ask = await serve((request, response) => {
    response.once('close', () => gone.resolve())
    request.resume().once('end', () => controller.abort())
  })
  await expect(ask(controller.signal)).rejects.toThrow()
  await gone.promise
  await expect(ask(controller.signal)).rejects.toThrow()
})

it('fails the read of an answer that is cut, and of one that the caller hung up on', async () => {
  const ask = await serve((_, response) => {
    response.writeHead(200).write('half')
    setImmediate(() => response.destroy())
  })
  await expect(ask().then(readAll)).rejects.toThrow()
})

it('lets go of the backend where an answer is abandoned', async () => {
  const gone = Promise.withResolvers<void>()
  const ask = await serve((_, response) => {
    response.once('close', () => gone.resolve())
    response.writeHead(200).write('first')
  })
  const response = await ask()
  await response.body?.cancel()
  await gone.promise
})

it('makes the backend wait for a reader that is slow', async () => {
  const SIZE = 64 << 20
  let sent = 0
  const ask = await serve((_, response) => {
    response.writeHead(200)
    const block = Buffer.alloc(1 << 20)
    const more = () => {
      while (sent < SIZE) {
        sent += block.length
        if (!response.write(block)) {
          response.once('drain', more)
          return
        }
      }
      response.end()
    }
    more()
  })
  const response = await ask()
  // Long enough for all of it, were it not made to wait.
  for (let turn = 0, before = -1; turn < 50 || before !== sent; turn++) {
    before = sent
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  expect(sent).toBeLessThan(SIZE / 2)
  expect((await readAll(response)).length).toBe(SIZE)
})
