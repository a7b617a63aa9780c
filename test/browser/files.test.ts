// Files below a URL and SHA-256 as a page has them, against Node's own server and hash.
import { createHash } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { pageHost, urlFolder } from '../../runtime/page.ts'
import { FUZZ_SEED, seeded } from '../compiler/random.ts'

function randomBytes(count: number): Uint8Array {
  const random = seeded(FUZZ_SEED)
  return Uint8Array.from({ length: count }, () => Math.floor(random() * 256))
}

test('SHA-256 is that of OpenSSL, for every length around a block and however the bytes are cut', () => {
  const bytes = randomBytes(3 * 64 + 17)
  for (let length = 0; length <= bytes.length; length++) {
    const expected = createHash('sha256').update(bytes.subarray(0, length)).digest('hex')
    const cut = (length * 7) % (length + 1)
    const hash = pageHost.sha256()
    hash.update(bytes.subarray(0, cut))
    hash.update(bytes.subarray(cut, length))
    expect(hash.hex()).toBe(expected)
  }
})

test('SHA-256 of a million bytes in uneven pieces', () => {
  const bytes = randomBytes(1_000_000)
  const hash = pageHost.sha256()
  let size = 1
  for (let at = 0; at < bytes.length; at += size) {
    size = (size * 31) % 1009
    hash.update(bytes.subarray(at, at + size))
  }
  expect(hash.hex()).toBe(createHash('sha256').update(bytes).digest('hex'))
})

const CONTENT = Buffer.from('0123456789'.repeat(50))
const asked: string[] = []
let failing = false
let server: Server
beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`)
    if (failing) {
      response.writeHead(500).end()
    } else if (request.url === '/folder/packed.txt') {
      const packed = gzipSync(CONTENT)
      response.writeHead(200, { 'content-encoding': 'gzip', 'content-length': packed.length })
      response.end(request.method === 'HEAD' ? undefined : packed)
    } else if (request.url === '/folder/a.txt' || request.url === '/folder/sub/b.txt') {
      response.writeHead(200, { 'content-length': CONTENT.length })
      response.end(request.method === 'HEAD' ? undefined : CONTENT)
    } else response.writeHead(404).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
})
afterAll(() => server.close())

const open = () => urlFolder(new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/folder/`))

test('a file is fetched once, and only when it is read', async () => {
  const folder = open()
  asked.length = 0
  const file = (await folder.open('sub/b.txt'))!
  expect(file.size).toBe(CONTENT.length)
  expect(asked).toEqual(['HEAD /folder/sub/b.txt'])
  expect(Buffer.from(await file.read(10, 5)).toString()).toBe('01234')
  await (await folder.open('sub/b.txt'))!.read(0, 1)
  expect(asked).toEqual(['HEAD /folder/sub/b.txt', 'GET /folder/sub/b.txt'])
  folder.forget()
  await file.read(0, 1)
  expect(asked.filter((line) => line.startsWith('GET')).length).toBe(2)
  await expect(file.read(490, 11)).rejects.toThrow('bytes 490..501 are outside the file of 500 bytes')
  await expect(file.read(-1, 2)).rejects.toThrow(RangeError)
})

test('a file that the server packs has the size of its content', async () => {
  expect((await open().open('packed.txt'))!.size).toBe(CONTENT.length)
})

test('what is not there, or not a plain path in the folder, is no file', async () => {
  asked.length = 0
  expect(await open().open('missing.txt')).toBeUndefined()
  for (const path of ['../secret', '/etc/passwd', 'sub/../a.txt', 'a.txt?x=1', 'http://elsewhere/a', '.hidden', '']) {
    expect(await open().open(path)).toBeUndefined()
  }
  expect(asked).toEqual(['HEAD /folder/missing.txt'])
})

test('a fetch that failed is told with its status, and may be tried again', async () => {
  const folder = open()
  const file = (await folder.open('a.txt'))!
  failing = true
  await expect(file.read(0, 1)).rejects.toThrow('a.txt of /folder/: HTTP status 500')
  failing = false
  expect(Buffer.from(await file.read(0, 3)).toString()).toBe('012')
})
