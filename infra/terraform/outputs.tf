output "cluster_yaml" {
  description = "cluster.yaml for this account: terraform output -raw cluster_yaml > runs/cluster.yaml"
  value = replace(replace(replace(replace(replace(replace(
    file("${path.module}/../../cluster.yaml"),
    "cluster_name: foodray", "cluster_name: ${var.cluster_name}"),
    "eu-central-1", var.region),
    "sg-00000000000000000", aws_security_group.cluster.id),
    "subnet-00000000000000000", join(", ", [for subnet in aws_subnet.private : subnet.id])),
    "ami-cpu000000000000000", local.image.cpu),
  "ami-gpu000000000000000", local.image.gpu)
}

output "places" {
  description = "Where things are in the bucket."
  value       = { for prefix in ["raw", "derived", "private"] : prefix => "s3://${aws_s3_bucket.study.id}/${prefix}" }
}

output "pod_roles" {
  description = "Roles of the service accounts of infra/kuberay."
  value       = { for name, role in aws_iam_role.account : name => role.arn }
}
