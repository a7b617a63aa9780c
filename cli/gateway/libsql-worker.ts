// The thread that owns a SQLite file: what came in together is committed together, with one wait for the disk.
// Each unit stands alone all the same: one that fails is undone by itself, and the others of its group are not.
import { fdatasync, openSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import Database from 'libsql'
import * as z from 'zod'
import { DURABILITIES, type Failure, type Rows, type Unit } from './libsql-file.ts'

/** Milliseconds that a statement waits for another process that writes to the same file. */
const BUSY_TIMEOUT_MS = 5_000
/** The gateway has some hundred texts of statements; those of the admin plane vary with what is asked. */
const MAX_PREPARED = 256

interface Prepared {
  readonly statement: Database.Statement<unknown[]>
  /** Null: it gives no rows. */
  readonly columns: readonly string[] | null
}

/** Where rows need not wait for the disk, they are on it this much later, and the time that a disk takes. */
const FLUSH_MS = 100
/** What was used, as it is written with every request. The registry and its audit are not among them. */
const RECORD =
  /^\s*(insert into|update|delete from) "(usage|exposures|assignments|key_uses|facts|limit_windows|limit_leases)"/i

const { path, durability } = z.object({ path: z.string(), durability: z.enum(DURABILITIES) }).parse(workerData)
const database = new Database(path, { timeout: BUSY_TIMEOUT_MS })
// As in D1. `synchronous = FULL`: what was answered is on the disk, whatever happens to the power.
for (const pragma of ['foreign_keys = ON', 'journal_mode = WAL', 'synchronous = FULL']) {
  database.prepare(`PRAGMA ${pragma}`).all()
}
const prepared = new Map<string, Prepared>()

function prepare(sql: string): Prepared {
  const known = prepared.get(sql)
  if (known !== undefined) return known
  const statement = database.prepare(sql)
  let columns: string[] | null = null
  try {
    statement.raw(true)
    columns = statement.columns().map(({ name }) => name)
  } catch {
    // It refuses where there are no rows to give.
  }
  const made = { statement, columns }
  for (const oldest of prepared.keys()) {
    if (prepared.size < MAX_PREPARED) break
    prepared.delete(oldest)
  }
  prepared.set(sql, made)
  return made
}

/** A statement that was prepared before keeps the columns of then. */
const SCHEMA = /^\s*(create|alter|drop)\b/i

function execute(sql: string, args: readonly unknown[]): Rows {
  if (SCHEMA.test(sql)) prepared.clear()
  const { statement, columns } = prepare(sql)
  if (columns === null) {
    const { changes, lastInsertRowid } = statement.run(args)
    return { columns: [], rows: [], changes, lastInsertRowid: Number(lastInsertRowid) }
  }
  return { columns, rows: statement.all(args) as unknown[][], changes: 0, lastInsertRowid: 0 }
}

let synchronous: 'FULL' | 'NORMAL' = 'FULL'
let log: number | undefined
let flushing: NodeJS.Timeout | undefined

/** NORMAL hands rows to the system, which writes them whatever becomes of this process; FULL waits for the disk as well. */
function setSynchronous(group: readonly Unit[]): void {
  const mayWait = durability !== 'power' && group.every((unit) => unit.every(({ sql }) => RECORD.test(sql)))
  const wanted = mayWait ? 'NORMAL' : 'FULL'
  if (wanted !== synchronous) database.exec(`PRAGMA synchronous = ${wanted}`)
  synchronous = wanted
}

function flushSoon(): void {
  flushing ??= setTimeout(() => {
    log ??= openSync(`${path}-wal`, 'r+')
    fdatasync(log, (error) => {
      flushing = undefined
      // What a disk refuses now it refuses with the next change as well, and that one is told.
      if (error !== null) flushSoon()
    })
  }, FLUSH_MS)
}

const isRead = (unit: Unit) => unit.every(({ sql }) => /^\s*select\b/i.test(sql))

function run(unit: Unit): Rows[] | Failure {
  const [only, ...others] = unit
  if (only !== undefined && others.length === 0) {
    try {
      return [execute(only.sql, only.args)]
    } catch (error) {
      // A statement that fails undoes itself; some failures undo the whole transaction, and then the group fails.
      if (!database.inTransaction) throw error
      return failureOf(error)
    }
  }
  database.exec('SAVEPOINT unit')
  try {
    const results = unit.map(({ sql, args }) => execute(sql, args))
    database.exec('RELEASE unit')
    return results
  } catch (error) {
    // Where the whole transaction is gone, so is this point in it, and the group fails.
    database.exec('ROLLBACK TO unit')
    database.exec('RELEASE unit')
    return failureOf(error)
  }
}

function runGroup(group: readonly Unit[]): (readonly Rows[] | Failure)[] {
  try {
    const isReading = group.every(isRead)
    if (!isReading) setSynchronous(group)
    // A write lock from the start makes a writer wait for another process instead of failing half-way.
    database.exec(isReading ? 'BEGIN' : 'BEGIN IMMEDIATE')
    const results = group.map(run)
    database.exec('COMMIT')
    if (!isReading && synchronous === 'NORMAL') flushSoon()
    return results
  } catch (error) {
    if (database.inTransaction) database.exec('ROLLBACK')
    return group.map(() => failureOf(error))
  }
}

function failureOf(error: unknown): Failure {
  const { message, code } = error as { message?: unknown; code?: unknown }
  return { message: String(message), code: typeof code === 'string' ? code : 'UNKNOWN' }
}

parentPort?.on('message', (group: readonly Unit[] | 'close') => {
  if (group === 'close') {
    clearTimeout(flushing)
    database.close()
    parentPort?.close()
  } else {
    parentPort?.postMessage(runGroup(group))
  }
})
parentPort?.postMessage('open')
