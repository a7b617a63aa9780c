// The options of `--quantize`, and what a quantised artifact is told of: error a layer, size, perplexity before and after.
import { readFile } from 'node:fs/promises'
import type { Compiled } from '../compiler/compile.ts'
import type { Manifest } from '../compiler/contract.ts'
import {
  ACTIVATIONS,
  BLOCKS,
  GRIDS,
  type Grid,
  type KeepOptions,
  METHODS,
  type QuantiseOptions,
  ROUNDINGS,
} from '../compiler/quantise/spec.ts'
import type { LayerError } from '../compiler/quantise/stream.ts'
import { score } from '../gpu-backend/score.ts'
import { openText } from '../gpu-backend/text/tokenizer.ts'
import { openFolder } from '../runtime/disk.ts'
import { UserError } from './fail.ts'
import { table } from './table.ts'

export interface QuantiseFlags {
  readonly quantize?: string
  readonly block?: string
  readonly symmetric?: boolean
  readonly asymmetric?: boolean
  readonly affine?: boolean
  readonly method?: string
  readonly keep?: readonly string[]
  readonly eight?: readonly string[]
  readonly activations?: string
  readonly calibration?: string
  readonly evalText?: string
}

/** Written for this purpose and published nowhere else, so that no base has seen it. In the public domain. */
const DEFAULT_TEXT = new URL('./eval-text/heldout.txt', import.meta.url)
/** More text than this makes a measurement of minutes. */
const MAX_EVAL_TOKENS = 2048
const MAX_EVAL_BYTES = 4 * 1024 * 1024

export function parseQuantise(flags: QuantiseFlags): QuantiseOptions | KeepOptions | undefined {
  const { quantize, keep = [], eight = [] } = flags
  if (quantize === undefined) {
    const given = [
      'block',
      'symmetric',
      'asymmetric',
      'affine',
      'method',
      'keep',
      'eight',
      'activations',
      'calibration',
      'evalText',
    ] as const
    const stray = given.find((name) => flags[name] !== undefined)
    if (stray === undefined) return undefined
    throw new UserError(`--${stray === 'evalText' ? 'eval-text' : stray} goes with --quantize; add --quantize int4.`)
  }
  const activations = ACTIVATIONS.find((name) => name === flags.activations)
  if (flags.activations !== undefined && activations === undefined) {
    throw new UserError(`--activations "${flags.activations}" is unknown; use ${ACTIVATIONS.join(' or ')}.`)
  }
  if (quantize === 'keep') {
    const stray = (['block', 'symmetric', 'asymmetric', 'affine', 'method', 'eight'] as const).find(
      (name) => flags[name] !== undefined,
    )
    if (stray === undefined) return { method: quantize, ...(activations && { activations }), keep }
    throw new UserError(`--${stray} is not for --quantize keep, which takes the blocks as they are; leave it out.`)
  }
  const method = METHODS.find((name) => name === quantize)
  if (method === undefined)
    throw new UserError(`--quantize "${quantize}" is unknown; use one of ${METHODS.join(', ')}, or keep for a GGUF.`)
  const block = BLOCKS.find((size) => String(size) === (flags.block ?? (method === 'nf4' ? '64' : '32')))
  if (block === undefined)
    throw new UserError(`--block "${flags.block}" is not a size of blocks; use ${BLOCKS.join(', ')}.`)
  const rounding = ROUNDINGS.find((name) => name === (flags.method ?? 'rtn'))
  if (rounding === undefined) throw new UserError(`--method "${flags.method}" is unknown; use ${ROUNDINGS.join(', ')}.`)
  if ((rounding === 'gptq') !== (flags.calibration !== undefined)) {
    throw new UserError(
      '--method gptq and --calibration go together; give both, with a text like what the model will see.',
    )
  }
  const grids = GRIDS.filter((name) => flags[name])
  if (grids.length > 1) {
    throw new UserError(`--${grids.join(' and --')} exclude each other; choose one.`)
  }
  const integer = method === 'int4' || method === 'int8'
  if (!integer && (grids.length > 0 || rounding !== 'rtn')) {
    throw new UserError(
      `--symmetric, --asymmetric, --affine and --method are for int4 and int8; leave them out with ${method}.`,
    )
  }
  // Of four bits, a plain scale loses a fifth of SmolLM2's perplexity where an offset a block loses a sixth of a percent.
  const grid: Grid = grids[0] ?? (method === 'int4' ? 'affine' : 'symmetric')
  if (grid === 'affine' && method !== 'int4')
    throw new UserError(`--affine is for int4; use --asymmetric with ${method}.`)
  if (!integer && activations !== undefined) {
    throw new UserError(`--activations is for int4, int8 and keep; leave it out with ${method}.`)
  }
  return { method, block, grid, rounding, ...(activations && { activations }), keep, eight }
}

export interface QuantisationReport {
  readonly layers: readonly LayerError[]
  /** Of the weights file, and of the same weights in two bytes each. */
  readonly bytes: number
  readonly fp16Bytes: number
  readonly perplexity?: { readonly tokens: number; readonly before: number; readonly after: number }
  /** Why there is no perplexity. */
  readonly unmeasured?: string
}

/**
 * `floating`: compiles the same without quantisation and gives its folder; left out where the graphs are not to be run, and
 * not called where nothing can be measured.
 */
export async function measureQuantisation(
  artifact: string,
  { manifest: { files, base }, layerErrors: layers, floatBytes }: Compiled,
  evalText: string | undefined,
  floating: (() => Promise<string>) | undefined,
): Promise<QuantisationReport> {
  const bytes = files.find(({ path }) => path.endsWith('.onnx_data'))?.bytes ?? 0
  const sizes = { layers, bytes, fp16Bytes: floatBytes / 2 }
  if (floating === undefined) return { ...sizes, unmeasured: 'the graphs were not run' }
  const text = await openText(openFolder(artifact))
  if (text === undefined) return { ...sizes, unmeasured: 'there is no tokenizer' }
  const content = await readEvalText(evalText)
  const most = Math.min(MAX_EVAL_TOKENS, base.architecture.maxPositions)
  const tokenIds = text.encode(content, Number.MAX_SAFE_INTEGER).slice(0, most)
  if (tokenIds.length < 2) throw new UserError('the text for --eval-text has fewer than two tokens; give a longer one.')
  const perplexity = async (folder: string) => (await score({ artifact: folder, input: { tokenIds } })).perplexity
  const before = await perplexity(await floating())
  const after = await perplexity(artifact)
  return { ...sizes, perplexity: { tokens: tokenIds.length, before, after } }
}

async function readEvalText(path: string | undefined): Promise<string> {
  const bytes = await readFile(path ?? DEFAULT_TEXT).catch(() => undefined)
  if (bytes === undefined) throw new UserError(`--eval-text "${path}" cannot be read; give a text file.`)
  if (bytes.length > MAX_EVAL_BYTES) {
    throw new UserError(`--eval-text "${path}" has ${bytes.length} bytes; at most ${MAX_EVAL_BYTES} are read, cut it.`)
  }
  return bytes.toString('utf8')
}

export function summariseQuantisation(
  { quantisation, target, adapters }: Pick<Manifest, 'quantisation' | 'target' | 'adapters'>,
  { layers, bytes, fp16Bytes, perplexity, unmeasured }: QuantisationReport,
) {
  if (quantisation === undefined) return ''
  const { method, rounding, block, grid, bitsPerWeight } = quantisation
  const [first] = layers
  const worst = layers.reduce((most, layer) => (layer.relativeError > (most?.relativeError ?? 0) ? layer : most), first)
  const others = Object.entries(quantisation.exceptions)
  const rows = [
    ['quantised', `${method}, blocks of ${block}, ${grid}, ${rounding}: ${bitsPerWeight} bits per weight`],
    ['exceptions', others.length === 0 ? 'none' : others.map(([module, how]) => `${module} ${how}`).join(', ')],
    ['weights', `${(bytes / 1e6).toFixed(1)} MB, ${(bytes / fp16Bytes).toFixed(3)} of fp16`],
    [
      'largest error',
      `${worst === undefined || worst.relativeError === 0 ? 'none' : `${worst.relativeError.toPrecision(3)} of the norm, in ${worst.module}`}`,
    ],
    [
      'perplexity',
      perplexity === undefined
        ? `not measured: ${unmeasured}`
        : `${perplexity.before.toFixed(3)} → ${perplexity.after.toFixed(3)} (${signed(perplexity.after / perplexity.before - 1)}) on ${perplexity.tokens} tokens`,
    ],
  ]
  const merged = target === 'merged' && adapters.length > 0
  const warning = merged
    ? `\nwarning: what the adapters change was rounded with the base; a routed artifact keeps them in float32 beside it`
    : ''
  return `${table(['', ''], rows)}${warning}`
}

const signed = (share: number) => `${share < 0 ? '' : '+'}${(share * 100).toFixed(2)} %`
