// `sidepath compile` and `merge` on exported ONNX: the same files with the adapters in them, and the evidence.
import { resolve } from 'node:path'
import { operate, SURGERY_FILE, type SurgeryReport } from '../compiler/surgery/operate.ts'
import { nodeHost, openFolder } from '../runtime/disk.ts'
import { type AdapterSpec, requireFolder } from './adapter-spec.ts'
import { probeHost } from './graph-folder.ts'
import { table } from './table.ts'
import { MAX_RUN_BYTES } from './verification.ts'
import { writeFolder } from './write-folder.ts'

interface SurgeryOrder {
  readonly folder: string
  readonly files: readonly string[]
  readonly adapters: readonly AdapterSpec[]
  readonly target: SurgeryReport['target']
}

interface SurgeryOptions {
  readonly out: string
  readonly json?: boolean
  /** `false`, or `files`: nothing is run. */
  readonly verify?: boolean | 'auto' | 'graphs' | 'files'
}

export async function surgeryCommand(order: SurgeryOrder, options: SurgeryOptions): Promise<void> {
  for (const { name, path } of order.adapters) await requireFolder(path, `adapter "${name}"`)
  const maxBytes = options.verify === 'graphs' ? undefined : MAX_RUN_BYTES
  const runs = options.verify !== false && options.verify !== 'files'
  const report = await writeFolder(
    options.out,
    (out, staged) =>
      operate(
        {
          base: openFolder(order.folder),
          files: order.files,
          adapters: order.adapters.map(({ name, path, weight }) => ({ name, folder: openFolder(path), weight })),
          target: order.target,
        },
        out,
        nodeHost,
        // What a signal leaves of the temporary folders goes with the staging folder.
        runs ? probeHost(order.folder, staged, staged, maxBytes) : undefined,
      ),
    () => {},
  )
  const out = resolve(options.out)
  process.stdout.write(options.json ? `${JSON.stringify({ out, report })}\n` : `${summary(report, out)}\n`)
}

function summary(
  { target, coverage, files, roundings = [], verification, notRun }: SurgeryReport,
  out: string,
): string {
  const groups = Map.groupBy(coverage, ({ adapter, file, op, evidence }) => [adapter, file, op, evidence].join('\0'))
  const rows = [...groups].map(([key, lines]) => [...key.split('\0'), String(lines.length)])
  return [
    `${target} ONNX, ${files.length + 1} files → ${out}`,
    '',
    table(['adapter', 'file', 'operator', 'evidence', 'linears'], rows),
    '',
    ...warnings(roundings),
    ...checked(verification, notRun),
    `every linear, its evidence and all figures: ${SURGERY_FILE}`,
    'the gpu-backend does not serve it: it needs engine.onnx, which is built from a checkpoint',
  ].join('\n')
}

function checked(verification: SurgeryReport['verification'], notRun?: string): string[] {
  if (verification === undefined) return [notRun ?? 'not run against its sources, as asked']
  const { checks, notes, probes } = verification
  const rows = checks.map(({ file, subject, form, against, output, maxError, bound, effect }) => [
    file,
    subject,
    form,
    against,
    output,
    maxError.toExponential(2),
    bound === 0 ? 'none' : bound.toExponential(2),
    effect.toExponential(2),
  ])
  return [
    `run against its sources on ${probes.length} made-up inputs:`,
    table(['file', 'subject', 'form', 'against', 'output', 'max error', 'bound', 'moves it by'], rows),
    ...notes.map((note) => `note: ${note}`),
    '',
  ]
}

function warnings(roundings: NonNullable<SurgeryReport['roundings']>): string[] {
  if (roundings.length === 0) return []
  const rows = roundings.map(({ module, relativeError, lossOfDelta }) => [
    module,
    relativeError.toPrecision(3),
    lossOfDelta.toPrecision(3),
  ])
  return [
    `warning: merged into quantised weights, which were rounded again; \`compile\` keeps the adapter in float32 beside them`,
    '',
    table(['linear', 'error over what was to be stored', 'error over what was merged'], rows),
    '',
  ]
}
