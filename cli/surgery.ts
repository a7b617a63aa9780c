// `sidepath compile` and `merge` on exported ONNX: the same files with the adapters in them, and the evidence.
import { resolve } from 'node:path'
import { operate, SURGERY_FILE, type SurgeryReport } from '../compiler/surgery/operate.ts'
import { nodeHost, openFolder } from '../runtime/disk.ts'
import { type AdapterSpec, requireFolder } from './adapter-spec.ts'
import { table } from './table.ts'
import { writeFolder } from './write-folder.ts'

interface SurgeryOrder {
  readonly folder: string
  readonly files: readonly string[]
  readonly adapters: readonly AdapterSpec[]
  readonly target: SurgeryReport['target']
}

export async function surgeryCommand(order: SurgeryOrder, options: { out: string; json?: boolean }): Promise<void> {
  for (const { name, path } of order.adapters) await requireFolder(path, `adapter "${name}"`)
  const report = await writeFolder(
    options.out,
    (out) =>
      operate(
        {
          base: openFolder(order.folder),
          files: order.files,
          adapters: order.adapters.map(({ name, path, weight }) => ({ name, folder: openFolder(path), weight })),
          target: order.target,
        },
        out,
        nodeHost,
      ),
    () => {},
  )
  const out = resolve(options.out)
  process.stdout.write(options.json ? `${JSON.stringify({ out, report })}\n` : `${summary(report, out)}\n`)
}

function summary({ target, coverage, files, roundings = [] }: SurgeryReport, out: string): string {
  const groups = Map.groupBy(coverage, ({ adapter, file, op, evidence }) => [adapter, file, op, evidence].join('\0'))
  const rows = [...groups].map(([key, lines]) => [...key.split('\0'), String(lines.length)])
  return [
    `${target} ONNX, ${files.length + 1} files → ${out}`,
    '',
    table(['adapter', 'file', 'operator', 'evidence', 'linears'], rows),
    '',
    ...warnings(roundings),
    `not run against its sources; every linear and its evidence: ${SURGERY_FILE}`,
    'the gpu-backend does not serve it: it needs engine.onnx, which is built from a checkpoint',
  ].join('\n')
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
