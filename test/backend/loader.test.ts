// The threads that load adapters: what is verified is what is used, a bad file harms no other, memory goes round, and a
// thread that dies is replaced.
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sitesOf } from '../../compiler/graph/sites.ts'
import { Hasher } from '../../gpu-backend/engine/hasher.ts'
import { type Loader, startLoader } from '../../gpu-backend/engine/loader.ts'
import { bufferOf, type Packed, prepare } from '../../gpu-backend/engine/packed.ts'
import { Spares } from '../../gpu-backend/engine/spares.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import { openFile } from '../../runtime/disk.ts'
import { type Artifact, compileDemo, compileTiny } from './artifacts.ts'

const RANK = 64

let tiny: Artifact
let demo: Artifact
let store: string
let loader: Loader

beforeAll(async () => {
  ;[tiny, demo] = await Promise.all([compileTiny(), compileDemo()])
  store = await mkdtemp(join(tmpdir(), 'sidepath-loader-'))
  loader = startLoader({ manifest: tiny.manifest, rank: RANK, folders: [join(tiny.path, 'adapters'), store] })
})
afterAll(async () => {
  await loader.close()
  await rm(store, { recursive: true, force: true })
})

const fileOf = (artifact: Artifact, name: string) =>
  join(artifact.path, 'adapters', `${artifact.digest(name)}.safetensors`)

/** Under the digest of `bytes`, or under another. */
async function put(bytes: Uint8Array, digest = createHash('sha256').update(bytes).digest('hex')): Promise<string> {
  await writeFile(join(store, `${digest}.safetensors`), bytes)
  return digest
}

/** By the reader that has no threads, in memory of its own. */
async function expected(name: string): Promise<Packed> {
  const read = adapterReader(tiny.manifest, RANK, [join(tiny.path, 'adapters')])
  return prepare(sitesOf(tiny.manifest.base.architecture), RANK, await read(tiny.digest(name)))
}

describe('loader', () => {
  test('gives each of many what the plain reader gives', async () => {
    const names = ['a', 'b', 'b', 'a', 'a']
    const loaded = await Promise.all(names.map((name) => loader.read(tiny.digest(name))))
    for (const [at, name] of names.entries()) expect(loaded[at]).toEqual(await expected(name))
  })

  test('a mix is made of the same factors', async () => {
    const mix = [{ digest: tiny.digest('a'), weight: 1 }]
    const { sites } = await loader.read('mix', mix)
    expect(sites).toEqual((await expected('a')).sites)
  })

  test('nothing that was in memory before is in an adapter that is laid out there', async () => {
    for (const name of ['a', 'b', 'a']) {
      const first = await loader.read(tiny.digest(name))
      new Float32Array(bufferOf(first)).fill(Number.NaN)
      loader.giveBack(first)
      expect(first.sites[0]!.A.length).toBe(0)
      expect(await loader.read(tiny.digest(name))).toEqual(await expected(name))
    }
  })

  test('refuses a bad file by what is wrong with it, and the next ones are whole', async () => {
    const good = await readFile(fileOf(tiny, 'a'))
    const start = 8 + Number(good.readBigUInt64LE(0))
    const edit = (change: (bytes: Buffer) => void): Buffer => {
      const bytes = Buffer.from(good)
      change(bytes)
      return bytes
    }
    const text = good.toString('latin1', 8, start)
    const shape = /"shape":\[(\d+),(\d+)\]/.exec(text)!
    expect(shape[1]).not.toBe(shape[2])
    const turned = text.replace(shape[0], `"shape":[${shape[2]},${shape[1]}]`)
    const flipped = edit((bytes) => bytes.writeUInt8(bytes.readUInt8(bytes.length - 9) ^ 1, bytes.length - 9))
    const bad: [string, string][] = [
      [await put(edit((bytes) => bytes.writeFloatLE(Number.NaN, start))), 'holds NaN or infinity'],
      [
        await put(edit((bytes) => bytes.writeFloatLE(Number.NEGATIVE_INFINITY, bytes.length - 4))),
        'holds NaN or infinity',
      ],
      [await put(edit((bytes) => bytes.write(turned, 8, 'latin1'))), 'the base needs'],
      [await put(await readFile(fileOf(demo, 'dates'))), 'compiled for the base'],
      [await put(good.subarray(0, -5)), 'is not usable'],
      [await put(good.subarray(0, 5)), 'is not usable'],
      [await put(new Uint8Array()), 'is not usable'],
      [await put(flipped, 'f'.repeat(64)), 'has other content than its digest says'],
      ['e'.repeat(64), 'no adapter with that digest'],
      ['../a', 'no adapter with that digest'],
    ]
    const loads = bad.flatMap(([digest]) => [loader.read(digest), loader.read(tiny.digest('b'))])
    const ended = await Promise.allSettled(loads)
    for (const [at, [, message]] of bad.entries()) {
      expect(ended[2 * at]).toMatchObject({ status: 'rejected', reason: { message: expect.stringContaining(message) } })
      expect(ended[2 * at + 1]).toEqual({ status: 'fulfilled', value: await expected('b') })
    }
  })

  test('a thread that dies ends the loads that it had, and the next load starts another', async () => {
    const source = `
      import { parentPort } from 'node:worker_threads'
      const answer = { failure: { code: 'adapter_refused', message: 'heard', param: null } }
      parentPort.on('message', ({ id, digest }) => {
        if (digest === 'kills') process.exit(3)
        if (digest === 'throws') throw new Error('of this thread')
        if (digest === 'hears') parentPort.postMessage({ id, ...answer })
      })`
    const entry = new URL(`data:text/javascript,${encodeURIComponent(source)}`)
    const fragile = startLoader({ manifest: tiny.manifest, rank: RANK, folders: [] }, entry)
    try {
      for (const end of ['kills', 'throws']) {
        const ended = await Promise.allSettled([fragile.read('waits'), fragile.read(end)])
        for (const { reason } of ended as PromiseRejectedResult[]) {
          expect(reason).toMatchObject({ code: 'engine_down', message: expect.stringContaining('try again') })
        }
        await expect(fragile.read('hears')).rejects.toMatchObject({ message: 'heard' })
      }
      // Not one that ended long ago takes the loads of its successor with it.
      const last = fragile.read('waits')
      await expect(fragile.read('hears')).rejects.toMatchObject({ message: 'heard' })
      await fragile.close()
      await expect(last).rejects.toMatchObject({ code: 'engine_down' })
      await expect(fragile.read('hears')).rejects.toMatchObject({ code: 'engine_down' })
    } finally {
      await fragile.close()
    }
  })
})

describe('hasher', () => {
  test('hashes the very bytes that it gives, file after file, also after one that shrank', async () => {
    const hasher = new Hasher()
    const sizes = [3_000_000, 10, 0, 524_288, 524_289]
    for (const size of sizes) {
      const bytes = Buffer.alloc(size, `${size} bytes`)
      const digest = await put(bytes)
      const file = await openFile(join(store, `${digest}.safetensors`))
      const whole = await hasher.read(file)
      expect(await whole.sha256).toBe(digest)
      expect(Buffer.compare(Buffer.from(whole.bytes), bytes)).toBe(0)
      await expect(hasher.read({ ...file, size: size + 1 })).rejects.toThrow('shrank')
      await file.close()
    }
    await hasher.close()
  })
})

describe('spares', () => {
  const size = (floats: number) => floats * Float32Array.BYTES_PER_ELEMENT

  test('memory of the very size is used again, and no other', () => {
    const spares = new Spares(size(1_000))
    const given = new ArrayBuffer(size(300))
    spares.give(given)
    expect(spares.take(299).buffer).not.toBe(given)
    expect(spares.take(300).buffer).toBe(given)
    expect(spares.take(300).buffer).not.toBe(given)
  })

  test('one of the size that was wanted last lies ready, once, and the oldest go above the limit', () => {
    const spares = new Spares(size(1_000))
    spares.refill()
    expect(spares.bytes).toBe(0)
    spares.take(400)
    spares.refill()
    spares.refill()
    expect(spares.bytes).toBe(size(400))
    spares.give(new ArrayBuffer(size(500)))
    spares.give(new ArrayBuffer(size(450)))
    expect(spares.bytes).toBe(size(950))
    spares.give(new ArrayBuffer(size(2_000)))
    expect(spares.bytes).toBe(0)
  })
})
