// An experiment with its arms, as the registry has it.
import { and, asc, eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { arms, experiments } from '../database/schema.ts'

export type ExperimentRow = NonNullable<Awaited<ReturnType<typeof readExperiment>>>
export type ArmRow = ExperimentRow['arms'][number]

export async function readExperiment(db: DrizzleD1Database, tenantId: string, id: string) {
  const [rows, armRows] = await db.batch([
    db
      .select()
      .from(experiments)
      .where(and(eq(experiments.tenantId, tenantId), eq(experiments.id, id))),
    db
      .select({
        id: arms.id,
        weight: arms.weight,
        adapterId: arms.adapterId,
        baseDigest: arms.baseDigest,
        shadow: arms.shadow,
        stoppedAt: arms.stoppedAt,
        stoppedBy: arms.stoppedBy,
      })
      .from(arms)
      .where(and(eq(arms.tenantId, tenantId), eq(arms.experimentId, id)))
      .orderBy(asc(arms.position)),
  ])
  return rows[0] && { ...rows[0], arms: armRows }
}
