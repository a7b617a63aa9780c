// `sidepath inspect`: what an adapter, a checkpoint, a file or an artifact holds.
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { inspectFile, inspectFolder } from '../compiler/inspect/inspect.ts'
import type { Cell, Inspection } from '../compiler/inspect/inspection.ts'
import { nodeHost, openFile, openFolder } from '../runtime/disk.ts'
import { requireLocal } from './adapter-spec.ts'
import { UserError } from './fail.ts'
import { table } from './table.ts'

export interface InspectOptions {
  readonly json?: boolean
}

export async function inspectCommand(path: string, { json }: InspectOptions): Promise<void> {
  const inspection = await inspect(path)
  process.stdout.write(json ? `${JSON.stringify(inspection)}\n` : `${describe(inspection)}\n`)
}

async function inspect(path: string): Promise<Inspection> {
  requireLocal(path, 'inspect')
  const there = await stat(path).catch(() => undefined)
  if (there === undefined) throw new UserError(`"${path}" does not exist; check the path.`)
  if (there.isDirectory()) return inspectFolder(openFolder(path), nodeHost)
  if (!there.isFile()) throw new UserError(`"${path}" is neither a file nor a folder.`)
  const file = await openFile(path)
  try {
    return await inspectFile(file, openFolder(dirname(path)))
  } finally {
    await file.close()
  }
}

function describe({ kind, name, facts, tables, notes }: Inspection): string {
  const width = Math.max(...Object.keys(facts).map((key) => key.length))
  const lines = [`${kind} ${printable(name)}`, '']
  for (const [key, value] of Object.entries(facts)) lines.push(`${key.padEnd(width)}  ${show(value)}`)
  for (const [title, rows] of Object.entries(tables)) {
    const [first] = rows
    if (first === undefined) continue
    const columns = Object.keys(first)
    const cells = rows.map((row) => columns.map((column) => show(row[column] ?? null)))
    lines.push('', `${title} (${rows.length})`, table(columns, cells))
  }
  if (notes.length > 0) lines.push('', ...notes.map((note) => `note: ${printable(note)}`))
  return lines.join('\n')
}

function show(cell: Cell): string {
  if (cell === null) return '–'
  if (typeof cell === 'number') return Number.isInteger(cell) ? String(cell) : cell.toPrecision(6)
  return printable(typeof cell === 'string' ? cell : `[${cell.map((item) => item ?? '?').join(', ')}]`)
}

/** Names come from files of strangers: a terminal must not obey them. */
function printable(text: string): string {
  return text.replace(/\p{C}/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`)
}
