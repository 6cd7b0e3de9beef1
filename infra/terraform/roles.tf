# Who may do what: jobs read raw/ and write derived/; the endpoint also reads the hashes of API keys; the head also starts and ends workers.
data "aws_iam_policy_document" "job" {
  statement {
    sid       = "ReadRawAndDerived"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.study.arn}/raw/*", "${aws_s3_bucket.study.arn}/derived/*"]
  }
  statement {
    sid       = "WriteDerived"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.study.arn}/derived/*"]
  }
  statement {
    sid       = "ListBoth"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.study.arn]
    condition {
      test     = "StringLikeIfExists" # without a prefix it is HeadBucket, which clients ask first
      variable = "s3:prefix"
      values   = ["raw", "raw/*", "derived", "derived/*"]
    }
  }
  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.bucket.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "serve" {
  source_policy_documents = [data.aws_iam_policy_document.job.json]
  statement {
    sid       = "ReadKeys"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.study.arn}/private/keys/*"]
  }
  statement {
    sid       = "ListKeys"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.study.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["private/keys", "private/keys/*"]
    }
  }
}

# The head's autoscaler: exactly the calls of Ray's AWS node provider (tests/infra/test_cluster_launch.py records them).
data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid       = "See"
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"] # EC2 knows no resources for it
  }
  statement {
    sid       = "StartTaggedWorkersWithImdsV2"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = [var.cluster_name]
    }
    condition {
      test     = "StringEquals"
      variable = "ec2:MetadataHttpTokens"
      values   = ["required"]
    }
    condition {
      test     = "ArnEquals"
      variable = "ec2:InstanceProfile"
      values   = [aws_iam_instance_profile.worker.arn]
    }
  }
  statement {
    sid     = "StartThemHere"
    actions = ["ec2:RunInstances"]
    resources = concat(
      [aws_security_group.cluster.arn],
      [for subnet in aws_subnet.private : subnet.arn],
      [for image in [local.image.cpu, local.image.gpu] : "arn:aws:ec2:${var.region}::image/${image}"],
      [for kind in ["network-interface", "volume", "key-pair", "spot-instances-request"] :
      "arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}:${kind}/*"],
    )
  }
  statement {
    sid       = "TagOwn"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.cluster_name]
    }
  }
  statement {
    sid       = "TagWhileStarting"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "EndOwn"
    actions   = ["ec2:TerminateInstances"]
    resources = ["arn:aws:ec2:${var.region}:${data.aws_caller_identity.current.account_id}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.cluster_name]
    }
  }
  statement {
    sid       = "GiveWorkersTheirRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.worker.arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

# The Session Manager's agent on the head, for ssh without an open port.
data "aws_iam_policy_document" "session" {
  statement {
    sid = "Session"
    actions = [
      "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"] # SSM knows no resources for them
  }
}

data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "head" {
  name               = "foodray-head"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role" "worker" {
  name               = "foodray-worker"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

# The names in cluster.yaml.
resource "aws_iam_instance_profile" "cluster" {
  name = "foodray-cluster"
  role = aws_iam_role.head.name
}

resource "aws_iam_instance_profile" "worker" {
  name = "foodray-worker"
  role = aws_iam_role.worker.name
}

resource "aws_iam_role_policy" "head" {
  for_each = {
    job        = data.aws_iam_policy_document.job.json
    autoscaler = data.aws_iam_policy_document.autoscaler.json
    session    = data.aws_iam_policy_document.session.json
  }
  name   = each.key
  role   = aws_iam_role.head.id
  policy = each.value
}

resource "aws_iam_role_policy" "worker" {
  name   = "job"
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.job.json
}

# The same for pods: each service account of infra/kuberay has a role, and nobody else can take it.
locals {
  oidc_host = var.oidc_provider_arn == null ? "" : split("oidc-provider/", var.oidc_provider_arn)[1]
  accounts = var.oidc_provider_arn == null ? {} : {
    foodray-job   = data.aws_iam_policy_document.job.json
    foodray-serve = data.aws_iam_policy_document.serve.json
  }
}

data "aws_iam_policy_document" "account" {
  for_each = local.accounts
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.oidc_host}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${each.key}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.oidc_host}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "account" {
  for_each           = local.accounts
  name               = "${each.key}-pods"
  assume_role_policy = data.aws_iam_policy_document.account[each.key].json
}

resource "aws_iam_role_policy" "account" {
  for_each = local.accounts
  name     = "data"
  role     = aws_iam_role.account[each.key].id
  policy   = each.value
}
