// The server of the pages: their files, the bases, and the way to a compiler. For this machine alone.
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { paths, type Setup } from '../../console/contract.ts'
import { AdapterFile, AdapterName, Digest } from '../../jobs/contract.ts'
import { type ServedBase, streamOf } from './base-files.ts'
import { bundlePages } from './bundle-pages.ts'
import { type CompilerAccess, PublishError, publish, published } from './publish.ts'

export interface ConsoleOptions {
  readonly bases: readonly ServedBase[]
  readonly sample: { readonly name: string; readonly text: string } | undefined
  readonly compiler: CompilerAccess | undefined
}

const PAGES = join(import.meta.dirname, '..', '..', 'console')
const RUNTIME = 'onnxruntime-web/ort-wasm-simd-threaded.asyncify'
/** Factors of all linears of a base of billions at a rank of hundreds; held in memory on its way. */
const MAX_ADAPTER_BYTES = 1024 ** 3

const HEADERS: Readonly<Record<string, string>> = {
  // Scripts and styles of this server and nothing else; WebAssembly; a plot that the page drew itself.
  'content-security-policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  // Isolated across origins, or WebAssembly has no threads.
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'cache-control': 'no-store',
}

export async function createConsole(options: ConsoleOptions): Promise<Hono> {
  const files = await readPages()
  const app = new Hono()
  app.use(async (context, next) => {
    await next()
    for (const [name, value] of Object.entries(HEADERS)) context.header(name, value)
  })
  app.use(async (context, next) => {
    // A name that somebody else's DNS leads here is another origin's way in.
    const { hostname, host } = new URL(context.req.url)
    if (hostname !== '127.0.0.1' && hostname !== 'localhost') return refuse(context, 403, 'open this page as 127.0.0.1')
    const origin = context.req.header('origin')
    if (context.req.method === 'POST' && origin !== `http://${host}`)
      return refuse(context, 403, 'not from another page')
    return next()
  })
  app.get('/', (context) => context.redirect('/train'))
  for (const [path, { type, bytes }] of files) {
    app.get(path, (context) => context.body(bytes, 200, { 'content-type': type }))
  }
  addBases(app, options)
  addPublish(app, options)
  app.notFound((context) => refuse(context, 404, 'there is nothing here'))
  app.onError((error, context) => {
    if (error instanceof PublishError) return refuse(context, error.status, error.message)
    process.stderr.write(`sidepath: ${error.stack ?? error.message}\n`)
    return refuse(context, 500, 'the server failed; its terminal says why')
  })
  return app
}

function addBases(app: Hono, { bases, sample, compiler }: ConsoleOptions): void {
  const setup: Setup = {
    bases: bases.map(({ name, bytes }) => ({ name, bytes })),
    sample: sample?.name ?? null,
    publishes: compiler !== undefined,
  }
  app.get(paths.setup, (context) => context.json(setup))
  if (sample !== undefined) app.get(paths.sample, (context) => context.text(sample.text))
  // Serves HEAD too.
  app.get('/bases/:name/:file', async (context) => {
    const base = bases.find(({ name }) => name === context.req.param('name'))
    const file = base?.files.find((name) => name === context.req.param('file'))
    const source = file === undefined ? undefined : await base?.folder.open(file)
    if (source === undefined) return refuse(context, 404, 'there is no such file of a base')
    const headers = { 'content-type': 'application/octet-stream', 'content-length': String(source.size) }
    if (context.req.method !== 'HEAD') return context.body(streamOf(source), 200, headers)
    await source.close()
    return context.body(null, 200, headers)
  })
}

function addPublish(app: Hono, { bases, compiler }: ConsoleOptions): void {
  const need = (): CompilerAccess => {
    if (compiler === undefined) throw new PublishError(404, 'there is no compiler to publish to; start with --compiler')
    return compiler
  }
  const onError = (context: Context) =>
    refuse(context, 413, `an adapter of over ${MAX_ADAPTER_BYTES} bytes is not taken`)
  app.post(paths.publish, bodyLimit({ maxSize: MAX_ADAPTER_BYTES, onError }), async (context) => {
    const access = need()
    const base = bases.find(({ name }) => name === context.req.query('base'))
    if (base === undefined) throw new PublishError(400, 'the base of that adapter is not served here; start with it')
    const name = AdapterName.safeParse(context.req.query('name'))
    if (!name.success) {
      throw new PublishError(400, 'the name does not fit; take 1 to 64 of a-z, 0-9, dot, dash and underscore')
    }
    const files = new Map<string, Uint8Array<ArrayBuffer>>()
    for (const [file, part] of Object.entries(await context.req.parseBody())) {
      if (!AdapterFile.safeParse(file).success || !(part instanceof File)) {
        throw new PublishError(400, 'an adapter is adapter_config.json and adapter_model.safetensors; send these')
      }
      files.set(file, new Uint8Array(await part.arrayBuffer()))
    }
    if (files.size === 0) throw new PublishError(400, 'there are no files of an adapter; send them')
    return context.json(await publish(access, base, name.data, files))
  })
  app.get('/publish/:job', async (context) => {
    const job = Digest.safeParse(context.req.param('job'))
    if (!job.success) throw new PublishError(404, 'there is no such job')
    return context.json(await published(need(), job.data))
  })
}

async function readPages(): Promise<Map<string, { type: string; bytes: Uint8Array<ArrayBuffer> }>> {
  const resolve = createRequire(import.meta.url).resolve
  const read = async (type: string, path: string) => ({ type, bytes: new Uint8Array(await readFile(path)) })
  const [scripts, page, style, wasm, loader] = await Promise.all([
    bundlePages(),
    read('text/html; charset=utf-8', join(PAGES, 'train.html')),
    read('text/css; charset=utf-8', join(PAGES, 'train.css')),
    read('application/wasm', resolve(`${RUNTIME}.wasm`)),
    read('text/javascript; charset=utf-8', resolve(`${RUNTIME}.mjs`)),
  ])
  const script = (name: string) => ({
    type: 'text/javascript; charset=utf-8',
    bytes: scripts.get(name) ?? new Uint8Array(),
  })
  return new Map([
    ['/train', page],
    ['/train.css', style],
    ['/train.js', script('train.js')],
    [paths.worker, script('worker.js')],
    [paths.wasm, wasm],
    [paths.script, loader],
  ])
}

function refuse(context: Context, status: 400 | 403 | 404 | 413 | 500 | 502, message: string): Response {
  return context.json({ error: { message } }, status)
}
