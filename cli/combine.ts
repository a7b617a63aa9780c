// `sidepath combine`: several PEFT adapters in, one PEFT adapter out, all or nothing.
import { readdir, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { readAdapters, type WeightedAdapter } from '../compiler/adapter/read-all.ts'
import { layerLinears } from '../compiler/checkpoint/names.ts'
import { openCheckpoint } from '../compiler/checkpoint/read.ts'
import { type CombineResult, combineModules } from '../compiler/combine/combine.ts'
import type { CombineInput } from '../compiler/combine/input.ts'
import type { CombineMethod, CombineOptions } from '../compiler/combine/options.ts'
import { type PeftIdentity, writePeft } from '../compiler/combine/write-peft.ts'
import type { Linear } from '../compiler/contract.ts'
import { encoderFamily } from '../compiler/encoder/config.ts'
import { CLASSIFIER } from '../compiler/encoder/names.ts'
import { openEncoder } from '../compiler/encoder/open.ts'
import type { Folder } from '../compiler/host.ts'
import { readJson } from '../compiler/read-file.ts'
import { openFolder, stageFolder } from '../runtime/disk.ts'
import { type AdapterSpec, parseAdapterSpec } from './adapter-spec.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { table } from './table.ts'

/** As the command line gives them: numbers are still text. */
export interface CombineCommandOptions {
  readonly base: string
  readonly adapter?: readonly string[]
  readonly out: string
  readonly method?: string
  readonly rank?: string
  readonly density?: string
  readonly epsilon?: string
  readonly gamma?: string
  readonly seed?: string
  readonly majoritySign?: string
  /** `true` without a value. */
  readonly peftCompat?: boolean | string
  readonly json?: boolean
}

/** Modules that the summary lists: those that lost most. `--json` has all of them. */
const LISTED_MODULES = 10

export async function combineCommand(options: CombineCommandOptions): Promise<void> {
  const specs = (options.adapter ?? []).map(parseAdapterSpec)
  const parsed = parseOptions(options)
  await requireFree(options.out)
  const started = performance.now()
  const adapters = await readForBase(options.base, specs)
  const result = combineModules(adapters.map(toInput), parsed, showModules(!options.json))
  const { identity, notes } = await identify(specs)
  await write(result, identity, options.out)
  const seconds = (performance.now() - started) / 1000
  const out = resolve(options.out)
  const { r, rankPattern, report, total, recipe } = result
  const allNotes = [...result.notes, ...notes]
  const json = {
    out,
    seconds,
    recipe,
    weights: identity.weights,
    r,
    rankPattern: Object.fromEntries(rankPattern),
    total,
  }
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ ...json, modules: report, notes: allNotes })}\n`
      : `${summary(result, allNotes, specs, out, seconds)}\n`,
  )
}

function parseOptions(options: CombineCommandOptions): CombineOptions {
  const number = (name: 'rank' | 'density' | 'epsilon' | 'gamma' | 'seed') => {
    const text = options[name]
    if (text === undefined) return {}
    if (text.trim() === '' || Number.isNaN(Number(text))) throw new UserError(`--${name} "${text}" is not a number.`)
    return { [name]: Number(text) }
  }
  const { method, majoritySign, peftCompat } = options
  return {
    // The library checks both, and lists what there is.
    ...(method === undefined ? {} : { method: method as CombineMethod }),
    ...(majoritySign === undefined ? {} : { majoritySign: majoritySign as 'total' }),
    ...number('rank'),
    ...number('density'),
    ...number('epsilon'),
    ...number('gamma'),
    ...number('seed'),
    ...(peftCompat === undefined ? {} : { peftCompat: parseCompat(peftCompat) }),
  }
}

function parseCompat(value: boolean | string): boolean | '0.20' {
  if (typeof value === 'boolean') return value
  if (value === '0.20') return value
  if (value === '0.21') return true
  throw new UserError(
    `--peft-compat "${value}": give 0.21, for PEFT from 0.21 on (the default), or 0.20, for older ones.`,
  )
}

async function readForBase(base: string, specs: readonly AdapterSpec[]): Promise<WeightedAdapter[]> {
  const folder = await openBaseFolder(base)
  const isEncoder = (await encoderFamily(folder)) !== undefined
  const checkpoint = await (isEncoder ? openEncoderLinears : openDecoderLinears)(folder)
  try {
    const inputs = specs.map(({ name, path, weight }) => ({ name, folder: openFolder(path), weight }))
    return await readAdapters(inputs, 'merged', checkpoint.linears)
  } finally {
    await checkpoint.close()
  }
}

interface OpenLinears {
  readonly linears: readonly Linear[]
  close(): Promise<void>
}

async function openDecoderLinears(folder: Folder): Promise<OpenLinears> {
  const checkpoint = await openCheckpoint(folder)
  return { linears: layerLinears(checkpoint.config.architecture), close: checkpoint.close }
}

/** Without the classifier, whose weight in the graph is not that of the checkpoint; PEFT saves it whole anyway. */
async function openEncoderLinears(folder: Folder): Promise<OpenLinears> {
  const { names, close } = await openEncoder(folder)
  return { linears: names.linears.filter(({ module }) => module !== CLASSIFIER), close }
}

function toInput({ name, weight, modules }: WeightedAdapter): CombineInput {
  return {
    name,
    weight,
    modules: new Map(
      modules.map(({ linear, r, scaling, A, B }) => [
        linear.module,
        // The reader holds Aᵀ and Bᵀ.
        { A: transpose(A, linear.in, r), B: transpose(B, r, linear.out), r, in: linear.in, out: linear.out, scaling },
      ]),
    ),
  }
}

/** [rows, columns] → [columns, rows], row-major. */
function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length)
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      result[column * rows + row] = values[row * columns + column] as number
    }
  }
  return result
}

/** What the new config says of the base is what the adapters said; the configs have been checked already. */
async function identify(specs: readonly AdapterSpec[]): Promise<{ identity: PeftIdentity; notes: string[] }> {
  const sorted = [...specs].sort((a, b) => (a.name < b.name ? -1 : 1))
  const configs = await Promise.all(
    sorted.map(
      // As the reader has it, and no further than the folder.
      async ({ path }) => ((await readJson(openFolder(path), 'adapter_config.json')) ?? {}) as Record<string, unknown>,
    ),
  )
  const texts = (key: string) => [
    ...new Set(configs.map((config) => config[key]).filter((value) => typeof value === 'string')),
  ]
  const [baseModelNameOrPath = null, ...others] = texts('base_model_name_or_path')
  const notes =
    others.length === 0
      ? []
      : [
          `the adapters name their base differently; the new config says "${baseModelNameOrPath}", not ${others.join(', ')}`,
        ]
  const weights = Object.fromEntries(sorted.map(({ name, weight }) => [name, weight]))
  return { identity: { baseModelNameOrPath, taskType: texts('task_type')[0] ?? null, weights }, notes }
}

async function write(result: CombineResult, identity: PeftIdentity, out: string): Promise<void> {
  const staged = await stageFolder(out)
  const interrupted = () => void staged.discard().finally(() => process.exit(130))
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  try {
    await writePeft(result, identity, staged)
    await staged.commit(out)
  } finally {
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await staged.discard()
  }
}

/** A line on a terminal; the methods that form dense deltas take seconds a module. */
function showModules(enabled: boolean): (done: number, total: number) => void {
  if (!enabled || !process.stderr.isTTY) return () => {}
  const clear = '\r\x1b[K'
  return (done, total) => process.stderr.write(done === total ? clear : `${clear}combine: ${done} of ${total} modules`)
}

async function requireFree(out: string): Promise<void> {
  const there = await stat(out).catch(() => undefined)
  if (there === undefined) return
  if (!there.isDirectory()) throw new UserError(`--out "${out}" is a file; choose a folder that does not exist yet.`)
  if ((await readdir(out)).length === 0) return
  throw new UserError(`--out "${out}" is not empty; choose a folder that does not exist yet.`)
}

function summary(
  { modules, report, total, recipe }: CombineResult,
  notes: readonly string[],
  specs: readonly AdapterSpec[],
  out: string,
  seconds: number,
): string {
  const mix = specs.map(({ name, weight }) => `${name}*${weight}`).join(' + ')
  const ranks = [...new Set(report.map(({ rank }) => rank))].sort((a, b) => a - b).join(', ')
  const lines = [
    `${recipe.method} of ${mix}: ${modules.size} modules of rank ${ranks}, ${seconds.toFixed(1)} s → ${out}`,
    `energy kept ${(100 * total.energyKept).toFixed(4)} %, Frobenius error ${total.frobeniusError.toPrecision(4)}`,
    ...('seed' in recipe ? [`seed ${recipe.seed}`] : []),
    ...notes.map((note) => `note: ${note}`),
  ]
  if (total.frobeniusError === 0) return lines.join('\n')
  const worst = [...report].sort((a, b) => a.energyKept - b.energyKept).slice(0, LISTED_MODULES)
  const rows = worst.map(({ module, rank, energyKept, frobeniusError }) => [
    module,
    String(rank),
    `${(100 * energyKept).toFixed(4)} %`,
    frobeniusError.toPrecision(4),
  ])
  return [...lines, '', table(['module', 'rank', 'energy kept', 'Frobenius error'], rows)].join('\n')
}
