// The row of a table as a schema: what the admin API answers with, column by column, so that the two cannot part.
import { getTableColumns, type Table } from 'drizzle-orm'
import * as z from 'zod'

type Shape = Record<string, z.ZodType>

/** `as`: columns whose schema says more than their type, and every column of JSON. */
export function rowOf(table: Table, as: Shape = {}): z.ZodObject<Shape> {
  const columns = Object.entries(getTableColumns(table))
  const unknown = Object.keys(as).filter((name) => !columns.some(([column]) => column === name))
  if (unknown.length > 0) throw new Error(`the table has no ${unknown.join(', ')}`)
  const shape = columns.map(([name, column]): [string, z.ZodType] => {
    const schema = as[name] ?? schemaOf(name, column)
    return [name, column.notNull ? schema : schema.nullable()]
  })
  return z.strictObject(Object.fromEntries(shape))
}

type Column = ReturnType<typeof getTableColumns>[string]

function schemaOf(name: string, { dataType, columnType, enumValues }: Column): z.ZodType {
  if (enumValues !== undefined && enumValues.length > 0) return z.enum(enumValues)
  if (dataType === 'string') return z.string()
  if (dataType === 'boolean') return z.boolean()
  if (dataType === 'number') return columnType === 'SQLiteReal' ? z.number() : z.int()
  throw new Error(`say what is in the column ${name}: its type is ${dataType}`)
}
