// The engine inside a page: the same scheduler, slots, sampler and tokenizer as on a server, on WebGPU or WASM.
import { checkGraphs } from '../../compiler/check-graphs.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { readArtifact, verifyFiles } from '../../compiler/read-artifact.ts'
import { stackOf } from '../../compiler/verify/side-path.ts'
import { wholeStack } from '../../compiler/verify/subjects.ts'
import { pageHost, urlFolder } from '../../runtime/page.ts'
import { openDevice, setUpWeb } from '../../runtime/web.ts'
import { readEndIds } from '../engine/end-ids.ts'
import { Engine } from '../engine/engine.ts'
import { toError } from '../engine/failure.ts'
import { openWebModel, type WebModel } from '../engine/open-web.ts'
import { Pieces } from '../engine/pieces.ts'
import { defaultEngineConfig, type GenerateRequest, type Piece } from '../engine/request.ts'
import { Residency } from '../engine/residency.ts'
import { Slots } from '../engine/slots.ts'
import { BackendError } from '../errors.ts'
import { openText, type Text } from '../text/tokenizer.ts'
import { pageAdapters } from './adapters.ts'

export interface PageConfig {
  /** URL of the artifact's folder. */
  readonly artifact: string
  /** URL of `ort-wasm-simd-threaded.asyncify.wasm` of the npm package onnxruntime-web. */
  readonly wasm: string
  /** `auto`: WebGPU where there is a GPU, else WASM. */
  readonly provider?: 'webgpu' | 'wasm' | 'auto'
  readonly slots?: number
  readonly maxRows?: number
  readonly kvBudgetBytes?: number
}

export interface PageModel extends WebModel {
  readonly manifest: Manifest
  readonly provider: 'webgpu' | 'wasm'
  readonly text: Text | undefined
  readonly endIds: ReadonlySet<number>
  readonly slots: number
  readonly read: ReturnType<typeof pageAdapters>
}

export interface PageEngine {
  readonly manifest: Manifest
  /** Where it runs, for people. */
  readonly provider: string
  readonly text: Text | undefined
  /** Ends when the generation does; leaving the loop early aborts it. Throws `BackendError`. */
  generate(request: PageRequest): AsyncGenerator<Piece, void, undefined>
  close(): Promise<void>
}

/** `adapter`: its name in the artifact; absent, the base. */
export type PageRequest = Omit<GenerateRequest, 'tenant' | 'mix' | 'adapter'> & { readonly adapter?: string }

let setUp: Promise<void> | undefined

/** The graph of an artifact with an empty cache and an empty bank. */
export async function openPageModel(config: PageConfig): Promise<PageModel> {
  setUp ??= fetchWasm(config.wasm)
  await setUp
  const provider = await chooseInPage(config.provider ?? 'auto')
  const folder = urlFolder(absolute(config.artifact))
  const { manifest } = await readArtifact(folder, pageHost)
  // Adapters are verified by their digests, when they are loaded.
  const adapterFiles = new Set(manifest.adapters.map(({ file }) => file))
  await verifyFiles(folder, { files: manifest.files.filter(({ path }) => !adapterFiles.has(path)) }, pageHost)
  await checkGraphs(folder, manifest)
  const { layers, kvHeads, headDim, maxPositions } = manifest.base.architecture
  const {
    slots = defaultEngineConfig.slots,
    maxRows = defaultEngineConfig.maxRows,
    kvBudgetBytes: budgetBytes = defaultEngineConfig.kvBudgetBytes,
  } = config
  const rank = Math.max(1, ...manifest.adapters.map(({ r }) => r))
  const routed = manifest.bank.length > 0
  const opened = await openWebModel(folder, manifest, {
    provider,
    cache: { layers, kvHeads, headDim, maxPositions, maxRows, budgetBytes },
    bank: routed ? { slots: slots + 1, rank, rows: maxRows } : undefined,
    fixed: manifest.target === 'stacked' ? stackOf(manifest, (await wholeStack(folder, manifest)).modules).feeds : {},
  })
  const text = await openText(folder)
  const endIds = await readEndIds(folder, manifest)
  folder.forget()
  const read = pageAdapters(folder, pageHost, manifest, rank)
  return { ...opened, manifest, provider, text, endIds, slots: routed ? slots : 0, read }
}

/** Throws `BackendError`, and the compiler's `InputError` where the artifact is not what its manifest says. */
export async function openInPage(config: PageConfig): Promise<PageEngine> {
  const { model, bank, manifest, provider, device, text, endIds, slots, read, release } = await openPageModel(config)
  const { layers, kvHeads, headDim } = manifest.base.architecture
  const { kvBudgetBytes = defaultEngineConfig.kvBudgetBytes } = config
  const waiting = new Map<number, Pieces>()
  const adapters =
    bank &&
    new Residency({
      slots: new Slots(slots),
      bank,
      hostBudgetBytes: defaultEngineConfig.hostBudgetBytes,
      read: async (digest, mix) => bank.prepare(await read(digest, mix)),
      onLoaded: (digest, error) => engine.adapterLoaded(digest, error),
    })
  const engine: Engine = new Engine({
    base: manifest.base.digest,
    model,
    adapters,
    slots,
    endIds,
    decode: text?.decode,
    // What keeps answers to a form is loaded as a file of Node's.
    grammars: {
      open: async () => {
        throw new BackendError('request_invalid', 'a page has no answers of a given form', 'response_format')
      },
    },
    kvTokens: Math.floor(kvBudgetBytes / (layers * kvHeads * headDim * 2 * Float32Array.BYTES_PER_ELEMENT)),
    maxQueue: defaultEngineConfig.maxQueue,
    prefillTokens: defaultEngineConfig.prefillTokens,
    emit(events) {
      for (const event of events) {
        const pieces = waiting.get(event.id)
        if ('piece' in event) pieces?.push(event.piece)
        else pieces?.refuse(toError(event.failure))
      }
    },
  })
  let lastId = 0
  return {
    manifest,
    provider: `${provider} on ${device}`,
    text,
    async *generate({ adapter, ...request }) {
      const id = ++lastId
      const pieces = new Pieces()
      waiting.set(id, pieces)
      try {
        engine.submit(id, {
          ...request,
          adapter: adapter === undefined ? null : digestOf(manifest, adapter),
          tenant: '',
        })
        yield* pieces.read()
      } finally {
        waiting.delete(id)
        if (!pieces.finished) engine.abort(id)
      }
    },
    async close() {
      await engine.stop()
      await release()
    },
  }
}

function digestOf({ adapters }: Manifest, name: string): string {
  const found = adapters.find((adapter) => adapter.name === name)
  if (found !== undefined) return found.digest
  const names = adapters.map((adapter) => adapter.name).join(', ')
  throw new BackendError('model_not_found', `there is no adapter "${name.slice(0, 100)}"; the artifact has: ${names}`)
}

async function chooseInPage(choice: 'webgpu' | 'wasm' | 'auto'): Promise<'webgpu' | 'wasm'> {
  if (choice === 'wasm') return choice
  const opened = await openDevice()
  if (choice === 'auto') return opened?.info.software === false ? 'webgpu' : 'wasm'
  if (opened !== undefined) return choice
  throw new BackendError('config_invalid', 'provider webgpu cannot be used here: there is no adapter; choose wasm')
}

async function fetchWasm(url: string): Promise<void> {
  const answer = await fetch(absolute(url))
  if (!answer.ok)
    throw new BackendError('config_invalid', `the runtime at ${url.slice(0, 200)}: HTTP status ${answer.status}`)
  // More would need a cross-origin isolated page, and a script of its own for the threads.
  setUpWeb({ wasm: new Uint8Array(await answer.arrayBuffer()), threads: 1 })
}

/** A page has a location, and so does a worker of it. */
function absolute(url: string): URL {
  return new URL(url, (globalThis as { location?: { href: string } }).location?.href)
}
