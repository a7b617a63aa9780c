-- What the code promises and the database holds it to: records are appended or settled once, never rewritten.
CREATE TRIGGER `audit_no_update` BEFORE UPDATE ON `audit` BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
--> statement-breakpoint
CREATE TRIGGER `audit_no_delete` BEFORE DELETE ON `audit` BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
--> statement-breakpoint
CREATE TRIGGER `assignments_no_update` BEFORE UPDATE ON `assignments` BEGIN SELECT RAISE(ABORT, 'assignments are write-once'); END;
--> statement-breakpoint
CREATE TRIGGER `usage_settles_once` BEFORE UPDATE ON `usage` WHEN OLD.`status` <> 'open' BEGIN SELECT RAISE(ABORT, 'usage is settled once'); END;
--> statement-breakpoint
CREATE TRIGGER `usage_no_delete` BEFORE DELETE ON `usage` BEGIN SELECT RAISE(ABORT, 'usage is append-only'); END;
