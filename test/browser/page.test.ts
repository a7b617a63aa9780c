// The demo and two of its adapters inside a page of a real browser, on WebGPU and on WASM, beside the engine on the CPU.
import { readFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { join, normalize } from 'node:path'
import { build } from 'esbuild'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openModel } from '../../gpu-backend/engine/open.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import { type Artifact, compileDemo, demoOracle } from '../backend/artifacts.ts'
import { collect, openInProcess } from '../backend/in-process.ts'
import { CHROMIUM_FLAGS, chromiumPath, sayMissing } from './chromium.ts'
import type { InPage } from './in-page.ts'

const TOLERANCE = 1e-3
/** A device in software compiles each shader for seconds on a machine that is busy. */
const SLOW_MS = 480_000
const MAX_TOKENS = 6
const NAMES = ['triage', 'dates'] as const
/** 723 kB when this was written: the runtime's own script, tokenizer, templates, schemas, compiler's readers, engine. */
const MAX_BUNDLE_BYTES = 800_000

if (chromiumPath === undefined) sayMissing('test/browser/page.test.ts: no chromium; run scripts/install-chromium.sh')

const bundle = await build({
  entryPoints: [join(import.meta.dirname, 'in-page.ts')],
  bundle: true,
  format: 'esm',
  platform: 'browser',
  minify: true,
  write: false,
  logLevel: 'silent',
})

test('the engine for pages has nothing of Node in it, and is small', () => {
  const [script] = bundle.outputFiles
  expect(bundle.warnings).toEqual([])
  expect(script!.contents.length).toBeLessThan(MAX_BUNDLE_BYTES)
  expect(script!.text).not.toMatch(/from\s*"node:|require\("(node:|fs|path|crypto)/)
})

describe.skipIf(chromiumPath === undefined)('the demo inside a page', () => {
  let demo: Artifact
  let server: Server
  let browser: Browser
  let page: Page

  beforeAll(async () => {
    demo = await compileDemo()
    server = await serveFiles(demo.path)
    browser = await chromium.launch({ executablePath: chromiumPath!, args: CHROMIUM_FLAGS })
    page = await browser.newPage()
    page.on('pageerror', (error) => process.stderr.write(`page: ${String(error)}\n`))
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    await page.waitForFunction(() => 'inPage' in globalThis)
  }, SLOW_MS)
  afterAll(async () => {
    await browser?.close()
    server?.close()
  })

  for (const provider of ['wasm', 'webgpu'] as const) {
    const config = { artifact: 'artifact/', wasm: 'ort.wasm', provider, slots: 3, maxRows: 4 }

    test(`${provider}: the logits of base and adapters are those of the CPU`, { timeout: SLOW_MS }, async () => {
      const { ids } = demoOracle.prompts[0]!
      const call = { config, ids }
      const found = await page.evaluate(({ config, ids }) => inPage().logits(config, ids), call)
      const expected = await logitsOnCpu(demo, ids)
      expect(found.length).toBe(expected.length)
      for (const [slot, vector] of expected.entries()) {
        expect(found[slot]!.length).toBe(vector.length)
        expect(Math.max(...vector.map((value, id) => Math.abs(value - found[slot]![id]!)))).toBeLessThan(TOLERANCE)
      }
    })

    test(`${provider}: two adapters in one batch write what they write on the CPU`, { timeout: SLOW_MS }, async () => {
      const prompts = NAMES.map((adapter, at) => ({ adapter, ids: demoOracle.prompts[at]!.ids }))
      const call = { config, prompts, maxTokens: MAX_TOKENS }
      const found = await page.evaluate(
        ({ config, prompts, maxTokens }) => inPage().answers(config, prompts, maxTokens),
        call,
      )
      expect(found.provider).toMatch(provider === 'wasm' ? /^wasm on the CPU$/ : /^webgpu on .*swiftshader/i)
      const engine = await openInProcess(demo.path, { threads: 1 })
      const expected = await Promise.all(
        prompts.map(({ adapter, ids }) =>
          collect(engine, { promptIds: ids, maxTokens: MAX_TOKENS, adapter: demo.digest(adapter) }),
        ),
      )
      expect(found.answers).toEqual(expected.map(({ ids, text }) => ({ ids, text })))
      expect(found.answers[0]!.text).not.toBe(found.answers[1]!.text)
    })
  }

  test('a file of the artifact that was changed on the way is found out', { timeout: SLOW_MS }, async () => {
    const config = { artifact: 'damaged/', wasm: 'ort.wasm', provider: 'wasm' as const }
    const answer = page.evaluate((config) => inPage().logits(config, [1]), config)
    await expect(answer).rejects.toThrow(/"tokenizer.json" is not the file that was compiled/)
  })
})

async function logitsOnCpu(demo: Artifact, ids: readonly number[]): Promise<number[][]> {
  const options = { slots: 3, bankRank: undefined, maxRows: 4, kvBudgetBytes: 1e8, threads: 1 }
  const { manifest, model, bank, session } = await openModel({ artifact: demo.path, ...options })
  const read = adapterReader(manifest, bank!.rank, [join(demo.path, 'adapters')])
  for (const [at, { digest }] of manifest.adapters.entries()) bank!.write(at + 1, bank!.prepare(await read(digest)))
  const slots = [0, ...manifest.adapters.map((_, at) => at + 1)]
  const inputs = slots.map((slot) => ({ row: model.open(ids.length), slot, tokens: ids, logits: 'last' as const }))
  const outputs = await model.forward(inputs)
  await session.release()
  return outputs.map(({ logits }) => [...logits[0]!])
}

/** In the page; the bundle has put it there. */
declare function inPage(): InPage

/** The page, its script, the runtime, the artifact, and the artifact with one file that is not its own. */
async function serveFiles(artifact: string): Promise<Server> {
  const wasm = createRequire(import.meta.url).resolve('onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm')
  const html = '<!doctype html><title>sidepath</title><script type="module" src="page.js"></script>'
  const read = async (path: string): Promise<Uint8Array> => {
    if (path === '/') return new TextEncoder().encode(html)
    if (path === '/page.js') return bundle.outputFiles[0]!.contents
    if (path === '/ort.wasm') return readFile(wasm)
    const [, folder, rest = ''] = /^\/(artifact|damaged)\/(.*)$/.exec(normalize(path)) ?? []
    if (folder === undefined) throw new Error('no such file')
    const bytes = await readFile(join(artifact, rest))
    if (folder === 'damaged' && rest === 'tokenizer.json') bytes[100]! ^= 1
    return bytes
  }
  const typeOf = (path: string): string =>
    path === '/' ? 'text/html' : path.endsWith('.js') ? 'text/javascript' : 'application/octet-stream'
  const server = createServer((request, response) => {
    const path = request.url ?? '/'
    read(path).then(
      (bytes) => {
        response.writeHead(200, { 'content-type': typeOf(path), 'content-length': bytes.length })
        response.end(request.method === 'HEAD' ? undefined : bytes)
      },
      () => response.writeHead(404).end(),
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}
