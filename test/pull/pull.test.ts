// Pulling from a stand-in of the Hub: what is pulled, pinned and recorded; what is resumed; where the token goes.
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { FILES, filesOf, type Pulling, readRecord, startPulling, USUAL, WEIGHTS, WEIGHTS_BYTES } from './pulling.ts'
import { REPO, sha256 } from './stand-in.ts'

const COMMIT = 'a'.repeat(40)
const OTHER = 'b'.repeat(40)
const TOKEN = 'hf_a-token-nobody-may-see'

let pulling: Pulling
beforeEach(async () => {
  pulling = await startPulling()
})
afterEach(() => pulling[Symbol.asyncDispose]())

/** Ends the transfer of the first shard's body after so many bytes, each time until `times` are over. */
function cutWeights(after: number, times = 1): void {
  let cuts = 0
  pulling.hub.intercept = (kind, request, response) => {
    const isFirst = kind === 'cdn' && request.url!.includes('00001')
    if (!isFirst || cuts >= times) return false
    cuts += 1
    const from = Number(/\d+/.exec(request.headers.range ?? '0')![0])
    const range = { 'content-range': `bytes ${from}-${WEIGHTS_BYTES - 1}/${WEIGHTS_BYTES}` }
    response.writeHead(from > 0 ? 206 : 200, { 'content-length': WEIGHTS_BYTES - from, ...(from > 0 ? range : {}) })
    response.write(FILES[WEIGHTS]!.subarray(from, from + after), () => response.destroy())
    return true
  }
}

describe('what is pulled', () => {
  it('the files that a base needs, over the pages of the listing, byte for byte', async () => {
    const result = await pulling.run()
    expect(await filesOf(pulling.out)).toEqual([...USUAL, 'sidepath-pull.json'].sort())
    for (const path of USUAL) expect(new Uint8Array(await readFile(join(pulling.out, path)))).toEqual(FILES[path])
    expect(pulling.hub.seen.filter(({ kind }) => kind === 'tree').length).toBe(4)
    expect(result).toMatchObject({ repo: REPO, revision: 'main', commit: COMMIT, pulled: true })
    expect(await filesOf(pulling.folder)).toHaveLength(USUAL.length + 1)
  })

  it('with a record of the commit and the SHA-256 of each file', async () => {
    await pulling.run()
    const files = USUAL.map((path) => ({ path, bytes: FILES[path]!.length, sha256: sha256(FILES[path]!) }))
    const record = { schema: 'sidepath.pull/1', repo: REPO, revision: 'main', commit: COMMIT, files }
    expect(await readRecord(pulling.out)).toEqual(record)
  })

  it('what --include names and nothing else', async () => {
    await pulling.run({ include: ['*Q4_K_M.gguf', 'onnx/*'] })
    expect(await filesOf(pulling.out)).toEqual(['onnx/model.onnx', 'sidepath-pull.json', 'tiny-Q4_K_M.gguf'])
  })

  it('an adapter by its own names', async () => {
    const adapter = { 'adapter_config.json': FILES['config.json']!, 'adapter_model.safetensors': FILES[WEIGHTS]! }
    pulling.hub.commits.set(COMMIT, {
      ...adapter,
      'optimizer.pt': FILES[WEIGHTS]!,
      'checkpoint-1/adapter_model.safetensors': FILES[WEIGHTS]!,
    })
    await pulling.run()
    expect(await filesOf(pulling.out)).toEqual([...Object.keys(adapter), 'sidepath-pull.json'])
  })

  it('nothing twice: a second pull checks the commit and asks for no file', async () => {
    await pulling.run()
    pulling.hub.seen.length = 0
    expect((await pulling.run()).pulled).toBe(false)
    expect(pulling.hub.seen.some(({ kind }) => kind === 'resolve' || kind === 'cdn')).toBe(false)
  })

  it('at most four files at a time', async () => {
    const many = Object.fromEntries(Array.from({ length: 12 }, (_, at) => [`w${at}.safetensors`, FILES[WEIGHTS]!]))
    pulling.hub.commits.set(COMMIT, many)
    // Each transfer waits until three more are there.
    let waiting: (() => void)[] = []
    pulling.hub.intercept = async (kind) => {
      if (kind !== 'cdn') return false
      await new Promise<void>((resolve) => {
        waiting.push(resolve)
        if (waiting.length < 4) return
        for (const go of waiting) go()
        waiting = []
      })
      return false
    }
    await pulling.run()
    expect(pulling.hub.mostAtOnce).toBeGreaterThan(1)
    expect(pulling.hub.mostAtOnce).toBeLessThanOrEqual(4)
  })

  it('progress that ends at the whole', async () => {
    const told: [number, number][] = []
    await pulling.run({ onProgress: (...both) => told.push(both) })
    const total = USUAL.reduce((sum, path) => sum + FILES[path]!.length, 0)
    expect(told.at(-1)).toEqual([total, total])
    expect(Math.max(...told.map(([done]) => done))).toBe(total)
  })
})

describe('the revision', () => {
  it('is resolved once: a branch that moves while it is pulled changes nothing', async () => {
    pulling.hub.commits.set(OTHER, { 'config.json': FILES['README.md']!, 'model.safetensors': FILES['README.md']! })
    pulling.hub.intercept = (kind) => {
      if (kind === 'tree') pulling.hub.revisions.set('main', OTHER)
      return false
    }
    expect((await pulling.run()).commit).toBe(COMMIT)
    for (const path of USUAL) expect(new Uint8Array(await readFile(join(pulling.out, path)))).toEqual(FILES[path])
    const asked = pulling.hub.seen.filter(({ kind }) => kind === 'tree' || kind === 'resolve')
    for (const { url } of asked) expect(url).toContain(COMMIT)
  })

  it('that moved between two runs: what is the same is kept, what changed is pulled anew, what went is gone', async () => {
    cutWeights(10_000, 5)
    expect((await pulling.refusal()).code).toBe('hub-unavailable')
    const { 'tokenizer.model': _, ...others } = FILES
    const changed = { ...others, 'config.json': new TextEncoder().encode('{"model_type":"llama","x":1}') }
    pulling.hub.commits.set(OTHER, changed)
    pulling.hub.revisions.set('main', OTHER)
    expect((await pulling.run()).commit).toBe(OTHER)
    expect(await filesOf(pulling.out)).toEqual(
      [...USUAL.filter((path) => path !== 'tokenizer.model'), 'sidepath-pull.json'].sort(),
    )
    expect(await readFile(join(pulling.out, 'config.json'), 'utf8')).toContain('"x":1')
  })

  it('may be a commit, a tag or a pull request; a finished folder of another commit is not touched', async () => {
    pulling.hub.commits.set(OTHER, FILES)
    pulling.hub.revisions.set('v1.0', COMMIT).set('refs/pr/1', OTHER)
    expect((await pulling.run({ reference: `hf:${REPO}@v1.0` })).commit).toBe(COMMIT)
    expect((await pulling.run({ reference: `hf:${REPO}@${COMMIT}` })).pulled).toBe(false)
    const { code, message } = await pulling.refusal({ reference: `hf:${REPO}@refs/pr/1` })
    expect([code, message]).toEqual(['out-occupied', expect.stringContaining('choose another folder')])
    expect(await readRecord(pulling.out)).toMatchObject({ commit: COMMIT })
  })

  it('that is answered with another commit than was asked for is refused', async () => {
    pulling.hub.revisions.set(OTHER, COMMIT)
    expect(await pulling.refusal({ reference: `hf:${REPO}@${OTHER}` })).toMatchObject({ code: 'hub-answer' })
  })
})

describe('a transfer that is cut', () => {
  it('goes on where it was, in the same run', async () => {
    cutWeights(100_000)
    await pulling.run()
    const ranges = pulling.hub.seen.filter(({ kind, url }) => kind === 'cdn' && url.includes('00001'))
    const [whole, rest] = ranges.map(({ range }) => range)
    // How much of what was sent before the cut arrives is the network's affair; nothing that arrived is asked for again.
    const from = Number(/^bytes=(\d+)-$/.exec(rest ?? '')?.[1])
    expect([whole, ranges.length]).toEqual([undefined, 2])
    expect(from).toBeGreaterThan(0)
    expect(from).toBeLessThanOrEqual(100_000)
    expect(new Uint8Array(await readFile(join(pulling.out, WEIGHTS)))).toEqual(FILES[WEIGHTS])
    expect(pulling.waits).toEqual([1000])
  })

  it('again and again ends the pull, without a folder that looks finished; the next run goes on', async () => {
    cutWeights(10_000, 5)
    expect((await pulling.refusal()).code).toBe('hub-unavailable')
    await expect(stat(pulling.out)).rejects.toThrow('ENOENT')
    expect((await stat(join(`${pulling.out}.partial`, `${WEIGHTS}.partial`))).size).toBe(50_000)
    pulling.hub.seen.length = 0
    await pulling.run()
    const asked = pulling.hub.seen.filter(({ kind }) => kind === 'cdn')
    expect(asked.find(({ url }) => url.includes('00001'))?.range).toBe('bytes=50000-')
    expect(await filesOf(pulling.folder)).toHaveLength(USUAL.length + 1)
  })

  it('by Ctrl-C leaves what the next run goes on with', async () => {
    const stopping = new AbortController()
    pulling.hub.intercept = (kind, request, response) => {
      if (kind !== 'cdn' || !request.url!.includes('00001')) return false
      response.writeHead(200, { 'content-length': WEIGHTS_BYTES })
      response.write(FILES[WEIGHTS]!.subarray(0, 65_536))
      return true
    }
    const onProgress = (done: number) => {
      if (done > 65_536) stopping.abort()
    }
    expect(await pulling.refusal({ signal: stopping.signal, onProgress })).toMatchObject({ code: 'interrupted' })
    await expect(stat(pulling.out)).rejects.toThrow('ENOENT')
    pulling.hub.intercept = () => false
    await pulling.run()
    expect(new Uint8Array(await readFile(join(pulling.out, WEIGHTS)))).toEqual(FILES[WEIGHTS])
  })

  it('by silence goes on where it was', async () => {
    let silences = 0
    pulling.hub.intercept = (kind, request, response) => {
      if (kind !== 'cdn' || !request.url!.includes('00001') || silences++ > 0) return false
      response.writeHead(200, { 'content-length': WEIGHTS_BYTES })
      response.write(FILES[WEIGHTS]!.subarray(0, 65_536))
      return true
    }
    await pulling.run({ idleMs: 1000 })
    const ranges = pulling.hub.seen.filter(({ kind, url }) => kind === 'cdn' && url.includes('00001'))
    expect(ranges.map(({ range }) => range)).toEqual([undefined, 'bytes=65536-'])
    expect(new Uint8Array(await readFile(join(pulling.out, WEIGHTS)))).toEqual(FILES[WEIGHTS])
  })

  it('because another file failed is not waited for, and is gone on with', async () => {
    pulling.hub.intercept = (kind, request, response) => {
      if (kind !== 'cdn') return false
      if (request.url!.includes('00002')) response.writeHead(404).end()
      else response.writeHead(200, { 'content-length': WEIGHTS_BYTES }).flushHeaders()
      return request.url!.includes('0000')
    }
    expect(await pulling.refusal()).toMatchObject({ code: 'not-found' })
    expect(pulling.waits).toEqual([])
    pulling.hub.intercept = () => false
    expect((await pulling.run()).pulled).toBe(true)
  })

  it('whose rest on disk was damaged starts over, once', async () => {
    const staging = `${pulling.out}.partial`
    await mkdir(staging)
    await writeFile(join(staging, '.pulling.json'), JSON.stringify({ repo: REPO }))
    await writeFile(join(staging, `${WEIGHTS}.partial`), new Uint8Array(1000))
    await pulling.run()
    const ranges = pulling.hub.seen.filter(({ kind, url }) => kind === 'cdn' && url.includes('00001'))
    expect(ranges.map(({ range }) => range)).toEqual(['bytes=1000-', undefined])
    expect(new Uint8Array(await readFile(join(pulling.out, WEIGHTS)))).toEqual(FILES[WEIGHTS])
  })

  it('by a server that knows no Range starts over', async () => {
    cutWeights(10_000, 5)
    await pulling.refusal()
    pulling.hub.intercept = (kind, request) => {
      if (kind === 'cdn') delete request.headers.range
      return false
    }
    const told: number[] = []
    await pulling.run({ onProgress: (done, total) => told.push(done / total) })
    expect(told.at(-1)).toBe(1)
    expect(new Uint8Array(await readFile(join(pulling.out, WEIGHTS)))).toEqual(FILES[WEIGHTS])
  })
})

describe('the token', () => {
  it('goes to the Hub and never to the CDN', async () => {
    pulling.hub.token = TOKEN
    await pulling.run({ token: TOKEN })
    const bearers = (kinds: string[]) =>
      new Set(pulling.hub.seen.filter(({ kind }) => kinds.includes(kind)).map(({ authorization }) => authorization))
    expect(bearers(['revision', 'tree', 'resolve'])).toEqual(new Set([`Bearer ${TOKEN}`]))
    expect(bearers(['cdn'])).toEqual(new Set([undefined]))
  })

  it('does not come back with a redirect from another host', async () => {
    const back = `${pulling.hub.url}/${REPO}/resolve/${COMMIT}/config.json`
    pulling.hub.intercept = (kind, _, response) => {
      if (kind === 'cdn') response.writeHead(302, { location: back }).end()
      return kind === 'cdn'
    }
    await pulling.refusal({ token: TOKEN })
    const direct = pulling.hub.seen.filter(({ kind, url }) => kind === 'resolve' && url.endsWith('config.json'))
    expect(direct.some(({ authorization }) => authorization === undefined)).toBe(true)
  })

  it('is in no error, nor is a signed address', async () => {
    pulling.hub.token = 'hf_another'
    expect((await pulling.refusal({ token: TOKEN })).message).not.toContain(TOKEN)
    pulling.hub.token = undefined
    const failures = [401, 403, 404, 418, 429, 500].map((status) => async () => {
      pulling.hub.intercept = (kind, request, response) => {
        if (kind === 'cdn') response.writeHead(status).end(`${request.headers.authorization} ${request.url}`)
        return kind === 'cdn'
      }
      return pulling.refusal({ token: TOKEN })
    })
    for (const failing of failures) {
      const error = await failing()
      for (const text of [error.message, error.stack, JSON.stringify(error)]) {
        expect(text).not.toContain(TOKEN)
        expect(text).not.toContain('signed-secret')
      }
    }
  })

  it('with a line break is refused before anything is asked', async () => {
    expect(await pulling.refusal({ token: 'hf_x\r\nx: y' })).toMatchObject({ code: 'token-invalid' })
    expect(pulling.hub.seen).toEqual([])
  })
})

describe('the folder', () => {
  it('that holds something else, finished or not, is left alone', async () => {
    await mkdir(pulling.out)
    await writeFile(join(pulling.out, 'thesis.txt'), 'years of work')
    expect(await pulling.refusal()).toMatchObject({ code: 'out-occupied' })
    expect(await filesOf(pulling.out)).toEqual(['thesis.txt'])
    const other = join(pulling.folder, 'other')
    await mkdir(`${other}.partial`)
    await writeFile(join(`${other}.partial`, 'thesis.txt'), 'years of work')
    expect(await pulling.refusal({ out: other })).toMatchObject({ code: 'out-occupied' })
    expect(await filesOf(`${other}.partial`)).toEqual(['thesis.txt'])
  })

  it('that another process is at is left to it', async () => {
    await mkdir(`${pulling.out}.partial`)
    await writeFile(join(`${pulling.out}.partial`, '.pulling.json'), JSON.stringify({ repo: REPO, pid: process.ppid }))
    const { code, message } = await pulling.refusal()
    expect([code, message]).toEqual(['out-occupied', expect.stringContaining(`process ${process.ppid}`)])
  })

  it('on a disk without room is not begun, and what is there already counts', async () => {
    const total = USUAL.reduce((sum, path) => sum + FILES[path]!.length, 0)
    const spare = 64 * 1024 * 1024
    expect(await pulling.refusal({ freeBytes: async () => total + spare - 1 })).toMatchObject({ code: 'disk-space' })
    expect(pulling.hub.seen.some(({ kind }) => kind === 'resolve')).toBe(false)
    cutWeights(10_000, 5)
    await pulling.refusal({ freeBytes: async () => total + spare })
    await pulling.run({ freeBytes: async () => total + spare - 50_000 })
  })
})
